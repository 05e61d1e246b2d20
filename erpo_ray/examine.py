"""Suites on stage directories: sample, judge, observe, measure, seal. What is there already is not done again.

Answers go from the backend into the ledgers and are read from there one by one, so that memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from erpo_ray.backend import Backend
from erpo_ray.errors import UsageError
from erpo_ray.evaluate.measures import Observation, Observer, SuiteResult, result, row
from erpo_ray.evaluate.suite import LEFT_OUT, OBSERVATIONS, QUESTIONS, RESULT, REVIEWS, SECOND, SUITE, Question, Suite
from erpo_ray.evaluate.turns import Renders, second_turns
from erpo_ray.explore import Part, Phase, prove_judge, sample
from erpo_ray.faults import check_verdicts
from erpo_ray.judging.ensemble import Committee, Review, opinions, reviews
from erpo_ray.rundir import Ledger, RunDir, StageDir, read_rows
from erpo_ray.types import Candidate, LeftOut, Policy, Request, Sampling, Verdict, encode, identity

_BINDING = ("transforms", "metrics", "max_tokens", "questions", "judge")
"""What of a suite cannot change while its stage goes on."""


@dataclass(frozen=True, slots=True)
class Asked:
    """suite.json: the suite as it was asked. `questions` is a hash of its prompts, references and second turns, in
    order, `judge` the section of its own judge."""

    suite: str
    description: str
    licence: str
    transforms: tuple[str, ...]
    metrics: tuple[str, ...]
    max_tokens: int
    questions: str
    judge: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """Questions of a suite that were asked together, the answers, and what the judge says of them."""

    questions: Sequence[Question]
    candidates: Ledger[Candidate]
    verdicts: Ledger[Verdict]


@dataclass(frozen=True, slots=True)
class Sitting:
    """A suite under way: the turns that are whole, and the one that is asked. `left` cannot be asked."""

    s: StageDir
    suite: Suite
    questions: Sequence[Question]
    part: Part
    turns: tuple[Turn, ...] = ()
    left: tuple[LeftOut, ...] = ()


@dataclass(frozen=True, slots=True)
class Examiner:
    """What all suites of one evaluation share. `max_tokens` is for suites that name none, `max_length` the context.

    With a `committee` of judges, reviews.jsonl lists the answers that a person should look at.
    """

    run: RunDir
    backend: Backend
    policy: Policy
    renderer: Renders
    observer: Observer
    phase: Phase
    max_failure_rate: float
    max_tokens: int
    max_length: int
    committee: Committee | None = None

    def examine(self, asked: Sequence[tuple[Suite, Sequence[Question]]]) -> list[SuiteResult]:
        """The measures of each suite, from answers sampled now or in an earlier start.

        All suites are sampled in one pass, and each is measured as soon as it is whole; second turns follow in another.
        UsageError when the directory holds a suite with other prompts or settings; RunFailed when the judge misses a
        canary or too many of its verdicts failed; the next start asks for these again.
        """
        found: dict[str, SuiteResult] = {}
        with ExitStack() as stages:
            sittings = [self._begin(stages.enter_context(self.run.stage(suite.name)), suite, q) for suite, q in asked]
            while sittings:
                by_stage, sittings = {each.part.stage: each for each in sittings}, []
                parts = [each.part for each in by_stage.values()]
                for part in sample(parts, self.policy, self.backend, self.run.id, self.phase):
                    sitting = self._answered(by_stage[part.stage])
                    if len(sitting.turns) < sitting.suite.turns:
                        sittings.append(self._second(sitting))
                    else:
                        found[sitting.suite.name] = self._measure(sitting)
        return [found[suite.name] for suite, _ in asked]

    def _begin(self, s: StageDir, suite: Suite, questions: Sequence[Question]) -> Sitting:
        """Keep what is asked and prove the judge."""
        greedy = self._greedy(suite)
        asked = _asked(suite, questions, greedy.max_tokens)
        _same(s.path, s.value(SUITE, Asked, lambda: asked), asked)
        s.once(QUESTIONS, Question, lambda: questions)
        if not s.sealed:
            self.run.status("running", stage=suite.name, phase="evaluation")
            prove_judge(s, self.backend, self.run.id)
        requests = [Request(each.prompt, self.renderer.render(each.prompt.text), (0,), greedy) for each in questions]
        return Sitting(s, suite, questions, self._part(s, requests))

    def _part(self, s: StageDir, requests: Sequence[Request], prefix: str = "") -> Part:
        return Part.of(s, requests, self.run.id, self.max_failure_rate, prefix)

    def _answered(self, sitting: Sitting) -> Sitting:
        """RunFailed when too many verdicts failed."""
        part = sitting.part
        check_verdicts(part.verdicts, self.max_failure_rate)
        return replace(sitting, turns=(*sitting.turns, Turn(sitting.questions, part.candidates, part.verdicts)))

    def _second(self, sitting: Sitting) -> Sitting:
        """The second turns, and those that cannot be asked."""
        s, greedy, (first,) = sitting.s, self._greedy(sitting.suite), sitting.turns
        room = self.max_length - greedy.max_tokens
        found = list(second_turns(first.questions, first.candidates, self.renderer, room, greedy))
        requests = [each for each in found if isinstance(each, Request)]
        questions = s.once(f"{SECOND}_{QUESTIONS}", Question, lambda: [Question(each.prompt) for each in requests])
        left = s.once(f"{SECOND}_{LEFT_OUT}", LeftOut, lambda: [each for each in found if isinstance(each, LeftOut)])
        return replace(sitting, questions=questions, part=self._part(s, requests, f"{SECOND}_"), left=left)

    def _measure(self, sitting: Sitting) -> SuiteResult:
        s, suite, turns = sitting.s, sitting.suite, sitting.turns
        if committee := self.committee:
            s.once(REVIEWS, Review, lambda: reviews(opinions(chain.from_iterable(map(_judged, turns))), committee))
        observed = s.once(
            OBSERVATIONS, Observation, lambda: chain.from_iterable(observations(turn, self.observer) for turn in turns)
        )
        found = s.value(
            RESULT, SuiteResult, lambda: result(suite.name, self.policy.version, observed, suite.metrics, sitting.left)
        )
        if not s.sealed:
            s.seal({"policy": self.policy.version, "prompts": found.prompts})
        self.run.append_metric(row(found))
        return found

    def _greedy(self, suite: Suite) -> Sampling:
        return Sampling(temperature=0.0, max_tokens=suite.max_tokens or self.max_tokens)


def observations(turn: Turn, observer: Observer) -> Iterator[Observation]:
    """One observation a question, in the order sampled."""
    asked = {question.prompt.id: question for question in turn.questions}
    for candidate, verdict in _judged(turn):
        question = asked[candidate.prompt_id]
        yield observer.observe(question.prompt, candidate, verdict, question.reference)


def _judged(turn: Turn) -> Iterator[tuple[Candidate, Verdict]]:
    """In the order sampled. Only verdicts are held in memory, which carry no text."""
    verdicts = {verdict.candidate_id: verdict for verdict in turn.verdicts}
    return ((candidate, verdicts[candidate.id]) for candidate in turn.candidates)


def _asked(suite: Suite, questions: Sequence[Question], max_tokens: int) -> Asked:
    return Asked(
        suite.name,
        suite.description,
        suite.licence,
        suite.transforms,
        suite.metrics,
        max_tokens,
        identity(*map(encode, questions)),
        suite.judge.model_dump_json() if suite.judge else "",
    )


def require_same(out: Path, asked: Sequence[tuple[Suite, Sequence[Question]]], max_tokens: int) -> None:
    """UsageError when the evaluation directory holds one of the suites with other prompts or settings."""
    for suite, questions in asked:
        place = out / "stages" / suite.name
        if (place / SUITE).exists():
            (kept,) = read_rows(place / SUITE, Asked)
            _same(place, kept, _asked(suite, questions, suite.max_tokens or max_tokens))


def _same(place: Path, kept: Asked, now: Asked) -> None:
    names = [name for name in _BINDING if getattr(kept, name) != getattr(now, name)]
    if names:
        raise UsageError(
            f"{place}: holds the suite {kept.suite} with another {', '.join(names)}; give another directory with -o"
        )
