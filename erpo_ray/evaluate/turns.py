"""Second turns of a suite: what the user says next, asked behind the answer to the first turn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from erpo_ray import traces
from erpo_ray.evaluate.suite import SECOND, Question
from erpo_ray.types import Candidate, LeftOut, Prompt, Request, Sampling

_SHOWN = 300
"""Characters of the first message, and of its answer, that a judge sees: an embedding reads 256 word pieces in all."""


class Renders(Protocol):
    """The renderer of the policy."""

    def render(self, text: str, *further: str) -> tuple[int, ...]: ...


def second_turns(
    questions: Sequence[Question], answers: Iterable[Candidate], renderer: Renders, room: int, sampling: Sampling
) -> Iterator[Request | LeftOut]:
    """The second turn behind each answer to a first one, in the order of the answers.

    The policy sees the chat: both messages, and between them the answer without its trace, as chat templates of
    reasoning models keep it. A first turn without an answer (`no_answer`) gives none, and nor does a chat of more than
    `room` tokens (`too_long`), which is never cut.
    """
    asked = {question.prompt.id: question for question in questions}
    for candidate in answers:
        question = asked[candidate.prompt_id]
        prompt = _prompt(question, answer := traces.answer(candidate.text))
        if not answer:
            yield LeftOut(prompt.id, "no_answer")
            continue
        ids = renderer.render(question.prompt.text, answer, question.second)
        yield Request(prompt, ids, (0,), sampling) if len(ids) <= room else LeftOut(prompt.id, "too_long")


def _prompt(question: Question, answer: str) -> Prompt:
    """The second turn as a judge sees it: behind the first exchange, whose texts are cut and stand on a line each.

    So no answer can pass for a turn of the user.
    """
    first = question.prompt
    text = f"User: {_cut(first.text)}\nAssistant: {_cut(answer)}\nUser: {question.second}"
    return replace(first, id=f"{first.id}~{SECOND}", text=text, twin="", source=f"{first.source}~{SECOND}")


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]} ..."
