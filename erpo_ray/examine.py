"""A suite on a stage directory: sample, judge, observe, measure, seal. What is there already is not done again.

Answers go from the backend into the ledgers and are read from there one by one, so that memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from erpo_ray.errors import UsageError
from erpo_ray.evaluate.measures import Observation, Observer, SuiteResult, result, row
from erpo_ray.evaluate.suite import OBSERVATIONS, QUESTIONS, RESULT, REVIEWS, SUITE, Question, Suite
from erpo_ray.explore import Backend, Phase, check_verdicts, prove_judge, sample
from erpo_ray.judging.ensemble import Committee, Review, reviews
from erpo_ray.rundir import Ledger, RunDir
from erpo_ray.types import Candidate, Policy, Request, Sampling, Verdict, encode, identity

_BINDING = ("transforms", "metrics", "max_tokens", "questions", "judge")
"""What of a suite cannot change while its stage goes on."""


class Renders(Protocol):
    """The renderer of the policy."""

    def render(self, text: str) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """suite.json: the suite as it was asked. `questions` is a hash of its prompts and references, in order, `judge` the
    section of its own judge."""

    suite: str
    description: str
    licence: str
    transforms: tuple[str, ...]
    metrics: tuple[str, ...]
    max_tokens: int
    questions: str
    judge: str = ""


@dataclass(frozen=True, slots=True)
class Examiner:
    """What all suites of one evaluation share. `max_tokens` is for suites that name none.

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
    committee: Committee | None = None

    def examine(self, suite: Suite, questions: Sequence[Question]) -> SuiteResult:
        """The suite's measures, from answers sampled now or in an earlier start.

        UsageError when the directory holds the suite with other prompts or settings; RunFailed when the judge misses a
        canary or too many of its verdicts failed.
        """
        tokens = suite.max_tokens or self.max_tokens
        with self.run.stage(suite.name) as s:
            asked = _asked(suite, questions, tokens)
            _require_same(s.path, s.value(SUITE, Asked, lambda: asked), asked)
            s.once(QUESTIONS, Question, lambda: questions)
            if not s.sealed:
                self.run.status("running", stage=suite.name, phase="evaluation")
                prove_judge(s, self.backend, self.run.id)
            candidates, verdicts = sample(
                s, self._requests(questions, tokens), self.policy, self.backend, self.run.id, self.phase
            )
            check_verdicts(verdicts, self.max_failure_rate)
            if committee := self.committee:
                s.once(REVIEWS, Review, lambda: reviews(_opinions(candidates, verdicts), committee))
            observed = s.once(
                OBSERVATIONS, Observation, lambda: observations(questions, candidates, verdicts, self.observer)
            )
            found = s.value(
                RESULT, SuiteResult, lambda: result(suite.name, self.policy.version, observed, suite.metrics)
            )
            if not s.sealed:
                s.seal({"policy": self.policy.version, "prompts": found.prompts})
        self.run.append_metric(row(found))
        return found

    def _requests(self, questions: Sequence[Question], tokens: int) -> list[Request]:
        greedy = Sampling(temperature=0.0, max_tokens=tokens)
        return [
            Request(question.prompt, self.renderer.render(question.prompt.text), (0,), greedy) for question in questions
        ]


def observations(
    questions: Sequence[Question], candidates: Ledger[Candidate], verdicts: Ledger[Verdict], observer: Observer
) -> Iterator[Observation]:
    """One observation a question, in the order sampled. Only verdicts are held in memory, which carry no text."""
    asked = {question.prompt.id: question for question in questions}
    judged = {verdict.candidate_id: verdict for verdict in verdicts}
    for candidate in candidates:
        question = asked[candidate.prompt_id]
        yield observer.observe(question.prompt, candidate, judged[candidate.id], question.reference)


def _opinions(
    candidates: Ledger[Candidate], verdicts: Ledger[Verdict]
) -> Iterator[tuple[str, Candidate, Sequence[Verdict]]]:
    """Every candidate that the members of a committee judged, with what each of them said."""
    said = {verdict.candidate_id: verdict.opinions for verdict in verdicts if verdict.opinions}
    return ((each.prompt_id, each, said[each.id]) for each in candidates if each.id in said)


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
