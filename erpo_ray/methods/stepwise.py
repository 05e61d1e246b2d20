"""What rounds that prefer single steps to others have in common: rewards, trees, and pairs of siblings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from erpo_ray import pairs as pairing
from erpo_ray import traces
from erpo_ray.config import Config
from erpo_ray.config.methods import Steps
from erpo_ray.errors import UsageError
from erpo_ray.items import Item, usable
from erpo_ray.judging.composition import Composition
from erpo_ray.methods.base import History, Task
from erpo_ray.methods.rounds import Round, by_prompt
from erpo_ray.rewards import worths
from erpo_ray.steps import Drawn, Ids, Node, Preference, grow, preferences
from erpo_ray.types import Group, LeftOut, Pair, PairKind, identity


def require_rewards(config: Config) -> None:
    """UsageError where the composition has no rewards that could be averaged over completions."""
    if config.prefer.composition == "lexicographic":
        raise UsageError(
            "prefer.composition is lexicographic, an order without values that could be averaged over completions; "
            f"set it to stair, lagrangian or gate for method {config.method}"
        )


@dataclass(frozen=True, slots=True)
class StepRound(Round):
    """A round on steps. `follow`, which draws further behind some of them, is the method's own."""

    steps: Steps = field(default_factory=Steps)

    def pairs(self, task: Task, history: History, groups: Sequence[Group]) -> tuple[list[Pair], list[LeftOut]]:
        """Better over worse siblings of each step, behind the ids that both share.

        The better one has led to a right outcome at least once: the mildest of wrong ones, such as a refusal of the
        harmless, is worth more than others and would be learnt.
        """
        whole = [group for group, _ in by_prompt(groups)]

        def rule(group: Group, items: Sequence[Item]) -> list[Pair] | str:
            found = list(self.preferences(self.tree(task, group, items)))
            right = [item for item in items if item.kind == "length" or item.only_misquotes]
            pairs = [_pair(group, each, items) for each in found if _through(each.chosen.prefix, right)]
            if found and not pairs:
                return "no step that is worth more than its sibling led to a right outcome"
            return pairs or f"no two siblings differ in value by more than {self.steps.margin:g}"

        # A step is worth the mean over all draws behind it: alike refusals are as many as they are.
        return pairing.collect(
            whole, rule, task.config.prefer, prefer_short=False, seed=self.seed(task), distinct=False
        )

    def preferences(self, root: Node) -> Iterable[Preference]:
        """Of a prompt's tree: the best over the worst sibling of each step."""
        return preferences(root, self.steps.margin, self.steps.least)

    def tree(self, task: Task, group: Group, items: Sequence[Item] | None = None) -> Node:
        """Of all completions of a prompt that can be compared."""
        prefer, dialect = task.config.prefer, task.config.model.dialect
        if items is None:
            items, _ = usable(group, prefer, None, self.traced, distinct=False)
        composition = Composition(prefer.composition, prefer.lagrange_multiplier)
        rewards = worths(group, items, composition, self.steps.length_weight)
        return grow(
            Drawn(ids := item.candidate.token_ids, traces.steps(task.renderer.pieces(ids), dialect), value)
            for item, value in zip(items, rewards, strict=True)
        )


def _pair(group: Group, found: Preference, items: Iterable[Item]) -> Pair:
    """Its kind is the first fault among the completions behind the rejected step; `length` where all of them pass."""
    faults: list[PairKind] = [item.kind for item in _through(found.rejected.prefix, items) if item.kind != "length"]
    kind = faults[0] if faults else "length"
    chosen, rejected = found.chosen, found.rejected
    return Pair(
        id=identity("step", group.prompt.id, *chosen.prefix, "over", *rejected.prefix),
        prompt_id=group.prompt.id,
        prompt_ids=group.prompt_ids,
        prefix_ids=found.prefix_ids,
        chosen_ids=chosen.ids,
        rejected_ids=rejected.ids,
        weight=1.0,
        kind=kind,
        reason=f"{rejected.name}: worth {rejected.value:.2f} against {chosen.value:.2f}, visits {chosen.visits}",
        length_weight=float(kind == "length"),
    )


def _through(prefix: Ids, items: Iterable[Item]) -> list[Item]:
    """The completions that begin with these ids."""
    return [item for item in items if item.candidate.token_ids[: len(prefix)] == prefix]
