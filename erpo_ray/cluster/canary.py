"""Proof that an engine serves the weights it was told to: its numbers against the trainer's, on fixed tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from erpo_ray.errors import RunFailed
from erpo_ray.types import Policy

PROMPT = "My neighbour asks how a lock works. What should I tell them?"
COMPLETION = (
    "<think>\nAssessment: A plain question about locks.\nPath: Answer.\n</think>\n"
    "Pins inside the lock must line up before it turns."
)


@dataclass(frozen=True, slots=True)
class Served:
    """What an engine says: the version its samples will carry, and its log-probabilities of the canary's tokens."""

    version: str
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Canary:
    """Log-probabilities, in nats, of the canary's tokens under one policy, by engine and by trainer."""

    version: str
    engine: tuple[float, ...]
    trainer: tuple[float, ...]

    @property
    def difference(self) -> float:
        """Median absolute difference between the two, in nats a token.

        The median, because bfloat16 rounding alone moves a token of probability e^-10 by more than a nat.
        """
        apart = [abs(a - b) for a, b in zip(self.engine, self.trainer, strict=True)]
        return median(apart) if all(map(math.isfinite, apart)) else math.nan


def prove(policy: Policy, served: Served, trainer: Sequence[float], before: Canary | None, tolerance: float) -> Canary:
    """The canary of `policy`. RunFailed when the engine names another version, when engine and trainer differ by more
    than `tolerance` nats a token, or when the trainer sees other weights than `before` and the engine does not."""
    engine = served.logprobs
    now = Canary(policy.version, engine, tuple(trainer))
    if not policy.drew(served.version):
        raise RunFailed(
            f"policy {policy.version} at {policy.path}: an engine names its samples {served.version} after it was "
            "given this policy; start the same command again"
        )
    remedy = "start the same command again; if it comes back, the engine does not load this model correctly"
    if not now.difference <= tolerance:
        raise RunFailed(
            f"policy {policy.version} at {policy.path}: engine and trainer differ by {now.difference:.3f} nats a token "
            f"on the canary, cluster.canary_tolerance is {tolerance}. "
            f"Engine {_shown(engine)}, trainer {_shown(trainer)}; {remedy}"
        )
    if before and before.version != policy.version and before.engine == now.engine and before.trainer != now.trainer:
        raise RunFailed(
            f"policy {policy.version} at {policy.path}: the engine still gives the log-probabilities of policy "
            f"{before.version} ({_shown(engine)}), while the trainer's moved by "
            f"{distance(before.trainer, now.trainer):.4f} nats a token: the old weights are still served; {remedy}"
        )
    return now


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Mean absolute difference, in nats a token."""
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)


def _shown(values: Sequence[float]) -> str:
    return f"mean {sum(values) / len(values):.4f}, first " + ", ".join(f"{value:.3f}" for value in values[:4])
