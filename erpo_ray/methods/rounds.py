"""A round as most methods have it: sample on-policy, then pair within each group, and optimise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from erpo_ray import pairs as pairing
from erpo_ray.config import Config
from erpo_ray.methods.base import History, Task
from erpo_ray.objectives import Objective, Training
from erpo_ray.prompts.mixing import choose_balanced
from erpo_ray.types import Group, LeftOut, Pair, Prompt, Request, Sampling, seed_of

R = TypeVar("R", bound="Round")


def in_rounds(config: Config, make: Callable[[int, Training, Objective], R]) -> tuple[R, ...]:
    """Rounds 0 to N (`rounds.count`) of one kind, all with the training and the objective of `prefer`."""
    training = config.prefer.fit.training(config.model.max_length, config.seed)
    objective = config.prefer.objective()
    return tuple(make(number, training, objective) for number in range(1 + config.rounds.count))


@dataclass(frozen=True, slots=True)
class OnPolicy:
    """What is asked in round `number` of a method, whatever is learnt from the answers."""

    number: int
    training: Training

    def requests(self, task: Task, history: History) -> list[Request]:
        """K samples for prompts that come first (and their twins), then for fresh ones."""
        settings = task.config.prefer
        seed = seed_of(task.config.seed, "prefer", self.number)
        prompts = choose_balanced(task.prompts, *settings.explored, seed, first=self.first(history))
        return [self._request(task, prompt, settings.draw.sampling()) for prompt in prompts]

    def follow(self, task: Task, history: History, groups: Sequence[Group]) -> list[Request]:
        """What to draw behind these groups, a group a request: nothing, one pass is all."""
        return []

    def first(self, history: History) -> frozenset[str]:
        """The prompts asked before any other: those that the policy last got wrong."""
        return frozenset(history.last.missed)

    def state(self, history: History, groups: Sequence[Group]) -> dict[str, float]:
        """What the next round has to know beyond the policy: nothing."""
        return {}

    def over(self, history: History) -> bool:
        """Whether the method ended before this round: it does not end by itself."""
        return False

    def behind(self, task: Task, group: Group, prefix: tuple[int, ...], completions: int) -> Request:
        """So many further completions of a prompt that begin with `prefix`; `group` holds all it has so far."""
        drawn = len(group.candidates)
        first = self._request(task, group.prompt, task.config.prefer.draw.sampling())
        left = max(1, first.sampling.max_tokens - len(prefix))
        return replace(
            first,
            samples=tuple(range(drawn, drawn + completions)),
            sampling=replace(first.sampling, max_tokens=left),
            prefix_ids=prefix,
        )

    def _request(self, task: Task, prompt: Prompt, sampling: Sampling) -> Request:
        room = task.config.model.max_length - 1
        ids = task.renderer.render(prompt.text)
        sampling = replace(sampling, max_tokens=min(sampling.max_tokens, room - len(ids)))
        return Request(prompt, ids, tuple(range(task.config.prefer.samples)), sampling)


@dataclass(frozen=True, slots=True)
class Round(OnPolicy):
    """A round of preference. `traced` is whether a candidate has to reason in due form to be chosen."""

    objective: Objective
    traced: bool = True
    name: str = "prefer"
    kind: Literal["prefer"] = "prefer"

    def pairs(self, task: Task, history: History, groups: Sequence[Group]) -> tuple[list[Pair], list[LeftOut]]:
        """Safe over unsafe, answered over refused, useful over empty, short over long."""
        return pairing.choose(
            groups, task.config.prefer, cap={}, prefer_short=False, seed=self.seed(task), traced=self.traced
        )

    def seed(self, task: Task) -> int:
        """What the choice of this round's pairs is drawn from."""
        return seed_of(task.config.seed, "pairs", self.number)


def by_prompt(groups: Iterable[Group]) -> list[tuple[Group, int]]:
    """All candidates of a prompt in one group, and how many groups they came in."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(group.prompt.id, []).append(group)
    return [
        (
            replace(
                parts[0],
                candidates=tuple(c for part in parts for c in part.candidates),
                verdicts=tuple(v for part in parts for v in part.verdicts),
            ),
            len(parts),
        )
        for parts in found.values()
    ]
