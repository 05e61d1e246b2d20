"""What trainers are given to do, as values, and how it is done once its rows are there. Free of Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erpo_ray.train.rows import Sequences
from erpo_ray.types import Example, Objective, Pair, Policy, Training

Progress = Callable[[int, int, dict[str, float]], None]
"""Told (step, steps, metrics) while training goes on."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to train, on which rows, into which directory. With an objective the rows are pairs, else examples.

    `work` keeps the trainer's checkpoints over crashes, `kept` what was scored under references. Paths are absolute.
    """

    policy: Path
    rows: Path
    training: Training
    out: Path
    work: Path
    reference: Path | None = None
    objective: Objective | None = None
    kept: Path | None = None

    @property
    def kind(self) -> type[Example] | type[Pair]:
        """What a row of the file is."""
        return Example if self.objective is None else Pair


@dataclass(frozen=True, slots=True)
class Scoring:
    """Rows whose completions are scored under a reference into the folder `kept`, before anyone knows their pairs."""

    reference: Policy
    rows: tuple[Sequences, ...]
    training: Training
    kept: Path


def train(job: Job, rows: Iterable[Any], report: Progress | None) -> dict[str, float]:
    """Train on the rows, write a model directory into `job.out`, return metrics. Leaves its memory to others."""
    from erpo_ray.train import models

    metrics = _train(job, list(rows), report)
    models.release()
    return metrics


def _train(job: Job, rows: list[Any], report: Progress | None) -> dict[str, float]:
    from erpo_ray.train import dpo, sft

    if job.objective is None:
        return sft.imitate(job.policy, rows, job.training, job.out, job.work, report)
    assert job.reference is not None
    return dpo.prefer(job.policy, job.reference, rows, job.objective, job.training, job.out, job.work, report, job.kept)
