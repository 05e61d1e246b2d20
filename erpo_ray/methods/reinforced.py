"""Rounds of policy gradient: sample on-policy, reward each completion, compare it with its group, optimise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from erpo_ray import rewards
from erpo_ray.config import Config, Prefer
from erpo_ray.config.reinforce import Reinforce as Settings
from erpo_ray.errors import UsageError
from erpo_ray.methods.base import History, Task
from erpo_ray.methods.rounds import OnPolicy
from erpo_ray.objectives import Surrogate
from erpo_ray.types import Advantage, Group, LeftOut

REWARD = "reward"
"""Name in a round's state: the mean reward of what it sampled, over the prompts."""


def rounds(config: Config, numbers: Iterable[int]) -> tuple[Reinforce, ...]:
    """The rounds of these numbers. UsageError where samples would be drawn ahead."""
    if config.overlap != "none":
        raise UsageError(
            f"overlap is {config.overlap}, but a reinforce stage learns from what the policy that it starts from says; "
            "set overlap=none, or take rounds of another kind"
        )
    training = config.prefer.fit.training(config.model.max_length, config.seed)
    settings, traced = config.reinforce, config.imitate.traces
    return tuple(
        Reinforce(n, training, settings.objective(), traced, settings=settings, prefer=config.prefer) for n in numbers
    )


@dataclass(frozen=True, slots=True)
class Reinforce(OnPolicy):
    """One round. `traced` is whether a candidate has to reason in due form to count as safe."""

    objective: Surrogate
    traced: bool = True
    name: str = "reinforce"
    kind: Literal["reinforce"] = "reinforce"
    settings: Settings = field(default_factory=Settings)
    prefer: Prefer = field(default_factory=Prefer)

    @property
    def shorten(self) -> bool:
        return self.settings.length_weight > 0

    def advantages(
        self, task: Task, history: History, groups: Sequence[Group]
    ) -> tuple[list[Advantage], list[LeftOut]]:
        """Of every completion in a group whose rewards differ."""
        return rewards.compare(groups, self.settings, self.prefer, self.traced)

    def state(self, history: History, groups: Sequence[Group]) -> dict[str, float]:
        """What the samples of this round were worth."""
        found = rewards.mean_reward(groups, self.settings, self.prefer, self.traced)
        return {} if found is None else {REWARD: found}
