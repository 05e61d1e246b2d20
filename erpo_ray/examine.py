"""A suite on a stage directory: sample, judge, observe, measure, seal. What is there already is not done again.

Answers go from the backend into the ledgers and are read from there one by one, so that memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from erpo_ray.errors import UsageError
from erpo_ray.evaluate.measures import Observation, Observer, SuiteResult, result, row
from erpo_ray.evaluate.suite import LEFT_OUT, OBSERVATIONS, QUESTIONS, RESULT, REVIEWS, SECOND, SUITE, Question, Suite
from erpo_ray.evaluate.turns import Renders, second_turns
from erpo_ray.explore import Backend, Phase, check_verdicts, prove_judge, sample
from erpo_ray.judging.ensemble import Committee, Review, opinions, reviews
from erpo_ray.rundir import Ledger, RunDir, StageDir
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

    def examine(self, suite: Suite, questions: Sequence[Question]) -> SuiteResult:
        """The suite's measures, from answers sampled now or in an earlier start.

        UsageError when the directory holds the suite with other prompts or settings; RunFailed when the judge misses a
        canary or too many of its verdicts failed.
        """
        greedy = Sampling(temperature=0.0, max_tokens=suite.max_tokens or self.max_tokens)
        with self.run.stage(suite.name) as s:
            asked = _asked(suite, questions, greedy.max_tokens)
            _require_same(s.path, s.value(SUITE, Asked, lambda: asked), asked)
            s.once(QUESTIONS, Question, lambda: questions)
            if not s.sealed:
                self.run.status("running", stage=suite.name, phase="evaluation")
                prove_judge(s, self.backend, self.run.id)
            turns = [self._turn(s, questions, self._requests(questions, greedy))]
            left: tuple[LeftOut, ...] = ()
            if suite.turns == 2:
                second, left = self._second(s, turns[0], greedy)
                turns.append(second)
            if committee := self.committee:
                s.once(REVIEWS, Review, lambda: reviews(opinions(chain.from_iterable(map(_judged, turns))), committee))
            observed = s.once(
                OBSERVATIONS,
                Observation,
                lambda: chain.from_iterable(observations(turn, self.observer) for turn in turns),
            )
            found = s.value(
                RESULT, SuiteResult, lambda: result(suite.name, self.policy.version, observed, suite.metrics, left)
            )
            if not s.sealed:
                s.seal({"policy": self.policy.version, "prompts": found.prompts})
        self.run.append_metric(row(found))
        return found

    def _requests(self, questions: Sequence[Question], greedy: Sampling) -> list[Request]:
        return [
            Request(question.prompt, self.renderer.render(question.prompt.text), (0,), greedy) for question in questions
        ]

    def _turn(self, s: StageDir, questions: Sequence[Question], requests: Sequence[Request], prefix: str = "") -> Turn:
        """The questions answered and judged. RunFailed when too many verdicts failed."""
        candidates, verdicts = sample(s, requests, self.policy, self.backend, self.run.id, self.phase, prefix)
        check_verdicts(verdicts, self.max_failure_rate)
        return Turn(questions, candidates, verdicts)

    def _second(self, s: StageDir, first: Turn, greedy: Sampling) -> tuple[Turn, tuple[LeftOut, ...]]:
        """The second turns answered and judged, and those that cannot be asked."""
        room = self.max_length - greedy.max_tokens
        found = list(second_turns(first.questions, first.candidates, self.renderer, room, greedy))
        requests = [each for each in found if isinstance(each, Request)]
        questions = s.once(f"{SECOND}_{QUESTIONS}", Question, lambda: [Question(each.prompt) for each in requests])
        left = s.once(f"{SECOND}_{LEFT_OUT}", LeftOut, lambda: [each for each in found if isinstance(each, LeftOut)])
        return self._turn(s, questions, requests, f"{SECOND}_"), left


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


def _require_same(place: Path, kept: Asked, now: Asked) -> None:
    names = [name for name in _BINDING if getattr(kept, name) != getattr(now, name)]
    if names:
        raise UsageError(
            f"{place}: holds the suite {kept.suite} with another {', '.join(names)}; give another directory with -o"
        )
