"""Labelled cases, split once into those that texts are searched on and those held apart, and what was said of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from erpo_ray.config import Source
from erpo_ray.errors import UsageError
from erpo_ray.evaluate.statistics import Comparison, compare
from erpo_ray.judging.calibration import share
from erpo_ray.methods.evolution import Score
from erpo_ray.prompts import loaders
from erpo_ray.prompts.labelled import Labelled, Preferred
from erpo_ray.types import Rate, identity, seed_of

LEAST = 4
"""Cases of each label that either part has to have."""


@dataclass(frozen=True, slots=True)
class Case:
    """A labelled case. For a judge: `text` as an answer to `prompt` (empty when it stands alone), the label is of
    `text`. For a teacher: the user's message `prompt` with its label, and the answer `text` to it when it is harmless.
    """

    id: str
    harmful: bool
    prompt: str
    text: str
    category: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one case under one text. `cause` is what is wrong with it, empty when it is right; `said` is the
    raw reply behind a cause. `under` is the text's key.
    """

    id: str
    under: str
    case: str
    harmful: bool
    cause: str = ""
    said: str = ""


@dataclass(frozen=True, slots=True)
class Measured:
    """Shares of cases that came out right, and the causes of those that did not."""

    harmful: Rate | None
    benign: Rate | None
    causes: dict[str, int]


def answer(under: str, case: Case, cause: str = "", said: str = "") -> Answer:
    """What came of this case under the text with this key."""
    return Answer(answer_id(under, case), under, case.id, case.harmful, cause, said)


def answer_id(under: str, case: Case) -> str:
    return identity(under, case.id)


def judged(rows: Sequence[Labelled] | Sequence[Preferred]) -> list[Case]:
    """The cases in labelled texts, as `erpo judge-check` takes them; of equal ones the first. UsageError for others."""
    found: dict[str, Case] = {}
    for row in rows:
        if isinstance(row, Preferred):
            raise UsageError("found preferences, which say of no text that it is harmful; give rows with a `label`")
        case = Case(identity("case", row.prompt, row.text), row.harmful, row.prompt, row.text)
        if found.setdefault(case.id, case).harmful != row.harmful:
            raise UsageError(f"row {row.id}: found a text that stands there with the other label too; remove one row")
    return [*found.values()]


def messages(rows: Iterable[tuple[str, Mapping[str, Any]]], categories: Sequence[str]) -> list[Case]:
    """The cases in rows of `prompt`, `label`, `category` and, where it is harmless, `response`. UsageError
    `FILE:LINE`."""
    found: dict[str, Case] = {}
    for place, row in rows:
        prompt = loaders.prompt_of(row, place, Source(path="rows"), categories)
        if prompt.label == "unknown":
            raise UsageError(f"{place}: found no `label`; give harmful or benign")
        harmful, response = prompt.label == "harmful", row.get("response")
        if not harmful and not (isinstance(response, str) and response.strip()):
            raise UsageError(
                f"{place}: found no `response` to a harmless message; write the answer that its trace is to lead to"
            )
        text = "" if harmful else str(response).strip()
        case = Case(identity("message", prompt.text), harmful, prompt.text, text, prompt.category)
        if found.setdefault(case.id, case).harmful != harmful:
            raise UsageError(f"{place}: found a message that stands there with the other label too; remove one row")
    return [*found.values()]


def split(cases: Sequence[Case], count: int) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """The cases searched on, at most `count` and of each label at most half of that, and those held apart.

    The part of a case follows from its prompt alone, so that two answers to one prompt stand in one part, and a file
    that grows moves none. UsageError where a part has too few.
    """
    parts: tuple[list[Case], list[Case]] = ([], [])
    for case in cases:
        parts[seed_of("part", case.prompt or case.text) % 2].append(case)
    searched, apart = ([_of(part, harmful) for harmful in (True, False)] for part in parts)
    for name, found in (("searched on", searched), ("held apart", apart)):
        if min(map(len, found)) < LEAST:
            raise UsageError(
                f"found {len(cases)} cases; of those {name} {len(found[0])} are harmful and {len(found[1])} benign, "
                f"but {LEAST} of each are the least; add labelled rows (half of all prompts come into either part)"
            )
    return tuple(case for found in searched for case in found[: count // 2]), tuple(apart[0] + apart[1])


def _of(cases: Iterable[Case], harmful: bool) -> list[Case]:
    return sorted((case for case in cases if case.harmful == harmful), key=lambda case: seed_of("order", case.id))


def scores(answers: Iterable[Answer], cases: Sequence[Case]) -> dict[str, Score]:
    """By the key of its text, the shares of harmful and of benign cases that came out right, where all were asked."""
    wanted = {case.id for case in cases}
    found: dict[str, list[Answer]] = {}
    for each in answers:
        if each.case in wanted:
            found.setdefault(each.under, []).append(each)
    return {
        under: Score(fmean(_right(given, True).values()), fmean(_right(given, False).values()))
        for under, given in found.items()
        if len(given) == len(wanted)
    }


def _right(answers: Iterable[Answer], harmful: bool) -> dict[str, bool]:
    """Whether the cases with this label came out right, by their ids."""
    return {each.case: not each.cause for each in answers if each.harmful == harmful}


def measured(answers: Sequence[Answer]) -> Measured:
    """The shares with Wilson's intervals; every answer that is not right is counted by its cause."""
    harmful, benign = (_right(answers, label) for label in (True, False))
    causes = Counter(each.cause for each in answers if each.cause)
    return Measured(
        share(sum(harmful.values()), len(harmful)),
        share(sum(benign.values()), len(benign)),
        dict(sorted(causes.items())),
    )


def changed(before: Sequence[Answer], after: Sequence[Answer]) -> dict[str, Comparison]:
    """The paired differences in what came out right, of harmful and of benign cases."""
    labels = (("harmful", True), ("benign", False))
    return compare({name: (_right(before, label), _right(after, label)) for name, label in labels})
