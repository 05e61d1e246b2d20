"""The search for a text: whatever was written and asked is kept in two ledgers, from which it is replayed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from erpo_ray.config.methods import Evolution
from erpo_ray.errors import RunFailed
from erpo_ray.evaluate.statistics import Comparison
from erpo_ray.methods.base import Tried
from erpo_ray.methods.evolution import Birth, Replay, evolution, key_of, replay
from erpo_ray.methods.rewriting import Brief, ask, read
from erpo_ray.methods.sentences import System
from erpo_ray.rundir import Ledger, StageDir
from erpo_ray.tuning.cases import Answer, Case, Measured, answer_id, changed, measured, scores
from erpo_ray.types import Failure, identity

WRITER = "You improve short instructions that other language models are given."
"""The system message of whoever writes a text."""
_SHOWN = 3
"""Cases that went wrong shown to an analyst."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model wrote for a birth of the search, and how it ended."""

    id: str
    text: str
    finish: str


class Subject(Protocol):
    """Whose prompt is searched for.

    Both raise RunFailed where the endpoint gives no answer that could be kept, and UsageError where it never will.
    """

    @property
    def brief(self) -> Brief: ...

    def answers(self, under: str, text: str, cases: Sequence[Case]) -> Iterator[Answer]:
        """What comes of the cases under a text, whose key is `under`."""
        ...

    def write(self, asked: str) -> tuple[str, str]:
        """A reply to this message, and how it ended."""
        ...

    def show(self, case: Case, answer: Answer) -> str:
        """A case that went wrong, for an analyst."""
        ...


@dataclass(frozen=True, slots=True)
class Search:
    """A search over cases, from the text `start`."""

    settings: Evolution
    brief: Brief
    start: str
    cases: tuple[Case, ...]
    seed: int

    @property
    def texts(self) -> int:
        """Texts that are tried at most."""
        return 1 + self.settings.children * (2 + 2 * self.settings.generations)

    def text(self, system: System) -> str:
        return " ".join(system) or self.start

    def replayed(self, written: Mapping[str, Reply], answers: Iterable[Answer]) -> Replay:
        """The search with what was written and asked so far."""
        return replay(
            evolution(self.settings, self.seed),
            lambda birth: self._child(birth, written),
            scores(answers, self.cases),
        )

    def _child(self, birth: Birth, written: Mapping[str, Reply]) -> System | Failure | None:
        # The text that was there before can be said in other words, but for the first birth, which is itself.
        if birth.own and (birth.seed == self.seed or not self.start):
            return ()
        reply = written.get(birth.id)
        found = None if reply is None else read(reply.text, reply.finish)
        return (found,) if isinstance(found, str) else found

    def question(self, birth: Birth, answers: Iterable[Answer], show: Callable[[Case, Answer], str]) -> str:
        """What a writer is asked for this child."""
        cases, under = {case.id: case for case in self.cases}, key_of(birth.parents[0])
        wrong = [
            show(cases[each.case], each)
            for each in answers
            if each.under == under and each.case in cases and each.cause
            if birth.operator == ("safety" if each.harmful else "utility")
        ]
        shown = Random(birth.seed).sample(wrong, min(_SHOWN, len(wrong)))
        parents = [self.text(parent) for parent in birth.parents]
        return ask(birth.operator, parents, shown, identity("code", birth.seed), self.brief)


@dataclass(frozen=True, slots=True)
class Found:
    """What a search ended with: on the cases held apart, how the text that was there before does (`before`) and the
    one that was found (`after`), and the paired differences. `text` is empty where none did better in the search.
    """

    text: str
    searched: int
    apart: int
    before: Measured
    after: Measured
    change: dict[str, Comparison]

    @property
    def gained(self) -> bool:
        """Whether the share of right cases, mean of both labels, rose on the cases held apart."""
        return sum(each.difference.value for each in self.change.values() if each.difference) > 0


def play(search: Search, apart: Sequence[Case], subject: Subject, s: StageDir, say: Callable[[str], None]) -> Found:
    """Search, or go on where it stopped, and measure the end on the cases held apart.

    RunFailed where the model wrote nothing that can be tried.
    """
    written, answers = s.ledger("written.jsonl", Reply), s.ledger("answers.jsonl", Answer)
    told = 0
    while True:
        replay = search.replayed({reply.id: reply for reply in written}, answers)
        for number, tried in enumerate(replay.tried[told:], told):
            say(_line(number, tried))
        told = len(replay.tried)
        if not (replay.unborn or replay.untried):
            break
        for birth in replay.unborn:
            written.append(Reply(birth.id, *subject.write(search.question(birth, answers, subject.show))))
        for system in replay.untried:
            _ask(answers, subject, system, search, search.cases)
    _require_some(replay.tried)
    s.once("tried.jsonl", Tried, lambda: replay.tried)
    before, after = (_ask(answers, subject, system, search, apart) for system in ((), replay.best))
    text, sizes = " ".join(replay.best), (len(search.cases), len(apart))
    return s.value(
        "found.json", Found, lambda: Found(text, *sizes, measured(before), measured(after), changed(before, after))
    )


def _ask(
    answers: Ledger[Answer], subject: Subject, system: System, search: Search, cases: Sequence[Case]
) -> list[Answer]:
    """All answers to the cases under a text; what is kept is not asked again."""
    under = key_of(system)
    missing = [case for case in cases if answer_id(under, case) not in answers]
    if missing:
        for each in subject.answers(under, search.text(system), missing):
            answers.append(each)
    wanted = {answer_id(under, case) for case in cases}
    return [each for each in answers if each.id in wanted]


def _require_some(tried: Sequence[Tried]) -> None:
    causes = Counter(each.failure.cause for each in tried if each.failure)
    if causes and not any(each.system for each in tried):
        told = ", ".join(f"{cause} {count}" for cause, count in sorted(causes.items()))
        raise RunFailed(
            f"none of the model's {causes.total()} replies holds a text that can be tried ({told}); "
            "raise sos.rewrite.max_tokens for `cut` (a model that reasons needs thousands) or name a larger model, and "
            "give another directory with -o"
        )


def _line(number: int, tried: Tried) -> str:
    if tried.failure:
        return f"{number:3} {tried.operator:9} left out: {tried.failure.cause}"
    return f"{number:3} {tried.operator:9} right: harmful {tried.safety:.2f}, benign {tried.utility:.2f}"
