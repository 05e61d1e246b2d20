"""What a run tells of its own work: the logged steps of a training, and the seconds of each phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

STEPS = "steps.jsonl"
"""File in the work folder of a training that holds its steps so far, plain JSON lines of `Step`, each once."""


@dataclass(frozen=True, slots=True)
class Step:
    """A row of `training.jsonl`: one logged training step. What its loss does not have is None.

    `margin` is that of the rewards (times beta), `accuracy` the share of pairs with a positive one, the
    log-probabilities are sums over a completion in nats, means over the pairs of the step. Of an imitate stage with
    contrasts the first two are those of the two logits. Of a reinforce stage, means over tokens: `kl` to the reference
    in nats, `clipped` the share whose ratio was cut off, `surprisal` -log p of what was sampled.
    """

    step: int
    loss: float
    margin: float | None = None
    accuracy: float | None = None
    logps_chosen: float | None = None
    logps_rejected: float | None = None
    kl: float | None = None
    clipped: float | None = None
    surprisal: float | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A row of `phases.jsonl`: wall seconds that a phase of a stage took in one start of the run."""

    stage: str
    phase: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Present:
    """Workers of a role: those that are up, as far as is known, of those there are to be."""

    up: int
    of: int


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that went wrong and was mended, with its cause; `at` in seconds since the epoch."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How a backend stands: its workers by role (`rollout`, `judge`, `train`), and the last troubles."""

    workers: dict[str, Present]
    troubles: tuple[Trouble, ...] = ()


def step(logged: Mapping[str, Any]) -> Step | None:
    """An entry of a trainer's log (names as in `Step`); None when it is not that of a step."""
    if "loss" not in logged:
        return None
    return Step(logged["step"], logged["loss"], *(logged.get(field.name) for field in fields(Step)[2:]))
