"""What trainers are given to do, as values, and how it is done once its rows are there. Free of Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erpo_ray.objectives import Objective, Surrogate, Training
from erpo_ray.train.rows import Sequences
from erpo_ray.types import Advantage, Example, Pair, Policy

Progress = Callable[[int, int, dict[str, float]], None]
"""Told (step, steps, metrics) while training goes on."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to train, on which rows, into which directory. The objective says what the rows are; none: examples.

    `work` keeps the trainer's checkpoints over crashes, `kept` what was scored under references. Paths are absolute.
    `canary`: ids of a prompt and a completion of which the trainer leaves a proof beside the weights.
    """

    policy: Path
    rows: Path
    training: Training
    out: Path
    work: Path
    reference: Path | None = None
    objective: Objective | Surrogate | None = None
    kept: Path | None = None
    canary: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    @property
    def kind(self) -> type[Example] | type[Pair] | type[Advantage]:
        """What a row of the file is."""
        match self.objective:
            case None:
                return Example
            case Objective():
                return Pair
            case Surrogate():
                return Advantage


@dataclass(frozen=True, slots=True)
class Scoring:
    """Rows whose completions (`by_token`: whose tokens) are scored under a reference into the folder `kept`, before
    anyone knows which of them are trained on. `work` is that of the training to come."""

    reference: Policy
    rows: tuple[Sequences, ...]
    training: Training
    kept: Path
    work: Path
    by_token: bool = False


def train(job: Job, rows: Iterable[Any], report: Progress | None) -> dict[str, float]:
    """Train on the rows, write a model directory into `job.out`, return metrics. Leaves its memory to others."""
    from erpo_ray.train import canary, fit, models, signs

    metrics = _train(job, list(rows), report)
    models.release()
    if job.canary and fit.workers()[0] == 0:
        signs.mark("save")
        canary.sign(job.out, *job.canary)
        models.release()
    return metrics


def _train(job: Job, rows: list[Any], report: Progress | None) -> dict[str, float]:
    from erpo_ray.train import dpo, reinforce, sft

    if job.objective is None:
        return sft.imitate(job.policy, rows, job.training, job.out, job.work, report)
    assert job.reference is not None
    where = job.training, job.out, job.work, report, job.kept
    if isinstance(job.objective, Surrogate):
        return reinforce.reinforce(job.policy, job.reference, rows, job.objective, *where)
    return dpo.prefer(job.policy, job.reference, rows, job.objective, *where)
