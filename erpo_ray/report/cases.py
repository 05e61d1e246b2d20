"""The examples of a report: each evaluation prompt with what the base model and the policy answered."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from erpo_ray import traces
from erpo_ray.judging import UNFINISHED
from erpo_ray.report.records import Answer, Run
from erpo_ray.terminal import clean
from erpo_ray.types import Label, Prompt, Scores

State = Literal["refused", "answered", "no answer", "not judged"]
Turn = Literal["worse", "still wrong", "better", "still right", "unknown"]

LONGEST = 4_000
"""Characters of a text that are shown."""

TURNS: tuple[Turn, ...] = ("worse", "still wrong", "better", "still right", "unknown")
"""What became of a prompt, in the order of the page: the faults first."""


@dataclass(frozen=True, slots=True)
class Part:
    """A step of a trace (`assessment`, `rules`, `path`), the whole trace of another form, or the `answer`."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Side:
    """What one policy answered, and what was said of it."""

    stage: str
    state: State
    parts: tuple[Part, ...]
    tokens: int
    judge: str
    scores: Scores | None
    notes: tuple[str, ...]
    failure: str


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt with the answers before and after (None: the same policy, or no answer yet).

    `history` is the state under every evaluated stage.
    """

    id: str
    label: Label
    category: str
    source: str
    turn: Turn
    prompt: str
    redacted: bool
    before: Side | None
    after: Side | None
    history: tuple[tuple[str, State], ...]


def cases(run: Run, redact: bool = False) -> list[Case]:
    """All prompts that the base model answered, the faults of the policy first.

    `redact` replaces prompts that are not known to be benign, and all that was answered to them, by a hash, the
    category and the length.
    """
    told = run.settings.get("model", {}).get("dialect")
    dialect: traces.Dialect = next((name for name in get_args(traces.Dialect) if name == told), "lines")
    found = [_case(run, id, dialect, redact) for id in dict.fromkeys((*run.base.answers, *run.last.answers))]
    return sorted(found, key=lambda case: (TURNS.index(case.turn), case.label, case.category, case.id))


def _case(run: Run, id: str, dialect: traces.Dialect, redact: bool) -> Case:
    prompt = run.prompts.get(id) or Prompt(id, "")
    hide = redact and prompt.label != "benign"
    before, after = run.base.answers.get(id), run.last.answers.get(id)
    moved = run.last.name != run.base.name
    return Case(
        id=hashed(id) if hide else id,
        label=prompt.label,
        category=prompt.category,
        source=prompt.source,
        turn=turn(prompt.label, before, after),
        prompt=_hidden(prompt.text, prompt.category) if hide else _shown(prompt.text),
        redacted=hide,
        before=side(run.base.name, before, dialect, hide, prompt.category) if before else None,
        after=side(run.last.name, after, dialect, hide, prompt.category) if after and moved else None,
        history=tuple((stage.name, state(stage.answers[id])) for stage in run.measured if id in stage.answers),
    )


def state(answer: Answer) -> State:
    """What an answer amounts to, in the terms of the evaluation: no answer counts as not refused."""
    verdict = answer.verdict
    if verdict is None or verdict.scores is None:
        return "not judged"
    if UNFINISHED in verdict.notes:
        return "no answer"
    return "refused" if verdict.refused else "answered"


def right(label: Label, answer: Answer | None) -> bool | None:
    """Whether a harmful prompt was refused, or a benign one answered; None when it cannot be told."""
    found = state(answer) if answer else "not judged"
    if label == "unknown" or found == "not judged":
        return None
    return found == ("refused" if label == "harmful" else "answered")


def turn(label: Label, before: Answer | None, after: Answer | None) -> Turn:
    """What became of a prompt between two policies."""
    was, now = right(label, before), right(label, after)
    if was is None or now is None:
        return "unknown"
    if was == now:
        return "still right" if now else "still wrong"
    return "better" if now else "worse"


def parts(text: str, dialect: traces.Dialect) -> tuple[Part, ...]:
    """A completion in the parts a reader looks at: the steps of its trace as far as they are there, then the answer."""
    reasoning, answer = traces.split(text)
    found: list[Part] = []
    if reasoning is not None:
        head = text.partition(traces.CLOSE)[0]
        steps = traces.steps(tuple(head), dialect)
        found += [Part(step.name, _bare(step.name, head[step.start : step.end], dialect)) for step in steps]
        if not steps and reasoning:
            found.append(Part("trace", reasoning))
    if answer:
        found.append(Part("answer", answer))
    return tuple(found)


def hashed(text: str) -> str:
    """The first half of a text's sha256: the same text can be found again, not read."""
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def _bare(name: str, text: str, dialect: traces.Dialect) -> str:
    """A section without the marks around it."""
    text = text.strip().removeprefix(traces.THINK).strip()
    if dialect == "tags":
        tag = traces.TAGS[name]
        return text.removeprefix(f"<{tag}>").removesuffix(f"</{tag}>").strip()
    return text.removeprefix(traces.LABELS[name]).strip()


def side(stage: str, answer: Answer, dialect: traces.Dialect, hide: bool, category: str) -> Side:
    """What the policy of a stage answered; with `hide` a hash and the length stand for its text."""
    verdict = answer.verdict
    texts: Sequence[Part] = parts(answer.text, dialect)
    if hide:
        texts = [Part(part.name, _hidden(part.text, category)) for part in texts]
    failure = verdict.failure if verdict else None
    cause = "" if failure is None else failure.cause if hide else _shown(f"{failure.cause}: {failure.raw}")
    return Side(
        stage=stage,
        state=state(answer),
        parts=tuple(texts) if hide else tuple(Part(part.name, _shown(part.text)) for part in texts),
        tokens=answer.tokens,
        judge=verdict.judge if verdict else "",
        scores=verdict.scores if verdict else None,
        notes=verdict.notes if verdict and not hide else (),
        failure=cause,
    )


def _hidden(text: str, category: str) -> str:
    return f"{hashed(text)} ({category or 'no category'}, {len(text)} characters)"


def _shown(text: str) -> str:
    text = clean(text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}\u2026 ({len(text) - LONGEST} more characters)"
