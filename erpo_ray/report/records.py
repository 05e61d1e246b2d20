"""What a report knows of a run, as frozen dataclasses: filled by `read`, drawn by `charts`, laid out by `page`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from erpo_ray.judging.ensemble import Review
from erpo_ray.methods.base import Outcome
from erpo_ray.telemetry import Step
from erpo_ray.types import Evaluation, Prompt, Verdict

Counts = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Answer:
    """One greedy completion of an evaluation, its length in tokens, and its verdict (None: not judged yet)."""

    prompt_id: str
    text: str
    tokens: int
    finish: str
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Volume:
    """How many completions were sampled, and the tokens that were drawn for them."""

    completions: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage as far as it got. `kept` counts its examples, pairs or advantages by kind, `left_out` what was not used
    by reason.

    `facts` are the numbers that training returned, `curve` its logged steps in order.
    """

    name: str
    outcome: Outcome | None = None
    evaluation: Evaluation | None = None
    answers: Mapping[str, Answer] = field(default_factory=dict)
    kept: Counts = field(default_factory=dict)
    left_out: Counts = field(default_factory=dict)
    facts: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[Step, ...] = ()
    rollouts: Volume = Volume()
    measured: Volume = Volume()

    @property
    def trained_tokens(self) -> int:
        """Tokens that its trainer computed, over all steps."""
        return round(self.facts.get("tokens_per_second", 0.0) * self.facts.get("seconds", 0.0))


@dataclass(frozen=True, slots=True)
class Reviewed:
    """An answer that judges disagree about; a prompt that is not known has no text."""

    stage: str
    prompt: Prompt
    answer: str
    review: Review


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory, finished or going on. Stages stand in order, the base model first.

    `prompts` are those of the evaluation by id. `seconds` is by (stage, phase).
    `judges` holds the judge cards by name, `reviews` what judges disagree about, `config_text` the resolved
    configuration as YAML.
    """

    name: str
    config_text: str
    settings: Mapping[str, Any]
    status: Mapping[str, Any]
    environment: Mapping[str, str]
    fingerprint: str
    stages: tuple[Stage, ...]
    prompts: Mapping[str, Prompt]
    seconds: Mapping[tuple[str, str], float]
    judges: Mapping[str, Any]
    reviews: tuple[Reviewed, ...] = ()

    @property
    def base(self) -> Stage:
        """The model as given."""
        return self.stages[0]

    @property
    def last(self) -> Stage:
        """The stage whose policy is the one to go on with; the base model's when none was accepted."""
        outcomes = [stage.outcome for stage in self.stages if stage.outcome]
        name = outcomes[-1].evaluation.stage if outcomes else self.base.name
        return next(stage for stage in self.stages if stage.name == name)

    @property
    def measured(self) -> tuple[Stage, ...]:
        """The stages whose policy was evaluated."""
        return tuple(stage for stage in self.stages if stage.evaluation)
