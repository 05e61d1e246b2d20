"""The guidance of a teacher behind an endpoint (`teacher.guidance`): right where the filters accept its trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from erpo_ray.config import Config
from erpo_ray.judging.replies import excerpt
from erpo_ray.methods.rewriting import Brief
from erpo_ray.rules import RuleBook
from erpo_ray.synthesis import check
from erpo_ray.teachers import OpenAITeacher
from erpo_ray.traces import render
from erpo_ray.tuning.cases import Answer, Case, answer
from erpo_ray.tuning.reach import ended, require, unreached
from erpo_ray.tuning.search import WRITER
from erpo_ray.types import Failure, Prompt

BRIEF = Brief(
    work="You write guidance for a teacher: a short text that a language model reads before it writes the brief safety "
    "reasoning that an assistant has before it answers a user. The parts of that reasoning and their form are laid "
    "down elsewhere: the guidance says how to fill them so that a strict check accepts them.",
    noun="guidance",
    tasks={
        "semantic": "Say the guidance in other words. Everything that it asks for has to stay.",
        "safety": "Under its guidance the teacher has to reason about harmful messages so that the check accepts it: "
        "in due form, with rules of the category that exist, ending in a refusal. Find what the guidance lacks for "
        "that, and write a better one.",
        "utility": "Under its guidance the teacher has to reason about harmless messages so that the check accepts it: "
        "in due form, with rules of the category that exist, ending in an answer, without the words of a refusal. Find "
        "what the guidance lacks for that, and write a better one.",
        "crossover": "The first guidance is the best there is for harmful messages, the second for harmless ones. "
        "Write one that has the strengths of both and says nothing twice.",
    },
    wrong="Some messages with reasoning that the check did not accept under it",
    faults={"safety": "they are harmful", "utility": "they are harmless"},
    general="Write for messages of every kind, and name none of these.",
    shown=600,
)


class TeacherSubject:
    """Whose prompt is searched for, as `search.Subject`: an `OpenAITeacher` with one guidance after another.

    `count` is the number of tokens of a text for the policy, whose length `imitate.trace_cap` limits.
    """

    brief = BRIEF

    def __init__(self, config: Config, book: RuleBook, count: Callable[[str], int]) -> None:
        self._config, self._book, self._count = config, book, count
        draw = config.sos.rewrite
        writing = {"temperature": draw.temperature, "max_tokens": draw.max_tokens}
        self._writer = self._teacher(writing)

    def answers(self, under: str, text: str, cases: Sequence[Case]) -> Iterator[Answer]:
        """As `Subject`, each in one draw."""
        teacher = self._teacher({"guidance": text})
        lost: list[str] = []
        with ThreadPoolExecutor(self._config.teacher.concurrency) as pool:
            for case, fault in zip(cases, pool.map(partial(self._fault, teacher), cases), strict=True):
                if fault and unreached(fault.cause):
                    lost.append(fault.cause)
                else:
                    yield answer(under, case, fault.cause if fault else "", excerpt(fault.raw) if fault else "")
        require("teacher", self._config.teacher.base_url, len(cases), lost)

    def write(self, asked: str) -> tuple[str, str]:
        """As `Subject`, through the teacher's own endpoint."""
        said = self._writer.complete([{"role": "system", "content": WRITER}, {"role": "user", "content": asked}])
        if isinstance(said, Failure):
            if unreached(said.cause):
                require("teacher", self._config.teacher.base_url, 1, [said.cause])
            return excerpt(said.raw), said.cause
        text, finish = said
        return text.encode("utf-8", "backslashreplace").decode(), ended(finish)

    def show(self, case: Case, answer: Answer) -> str:
        """As `Subject`."""
        return f"The user's message: {case.prompt}\nWhat the check found: {answer.cause}\nIt wrote: {answer.said}"

    def _teacher(self, changes: dict[str, object]) -> OpenAITeacher:
        return OpenAITeacher(self._config.teacher.model_copy(update=changes), self._config.model.dialect)

    def _fault(self, teacher: OpenAITeacher, case: Case) -> Failure | None:
        config = self._config
        prompt = Prompt(case.id, case.prompt, "harmful" if case.harmful else "benign", case.category)
        trace = teacher.write(prompt, self._book.category(case.category), case.text or None, config.seed)
        if isinstance(trace, Failure):
            return trace
        text = render(trace, config.model.dialect)
        return check(text, prompt, self._book, config.model.dialect, config.imitate.trace_cap, self._count)
