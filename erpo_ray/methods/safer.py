"""SAFER: Safety Alignment via Efficient Ex-Ante Reasoning (arXiv 2504.02725v2, the successor of ERPO).

Two stages. (1) Imitate: supervised on traces of three steps, initial assessment, rule verification and path
calibration, then the answer. (2) Prefer at *step level*, for safety, usefulness and efficiency together: with
s_i = (x, z_<i), the prompt and the steps before step i, sibling steps z_i are valued by the completions they lead to,
and the loss

    -log sigmoid(beta * [log-ratio of z_i^w given s_i - log-ratio of z_i^l given s_i])

stands on the step alone. That much is in the abstract; the form of the loss is STAIR's (arXiv 2502.02384), which is
assumed for SAFER. How siblings are drawn, valued and told apart is not known: all numbers are config fields.

Here: K completions make K siblings of the first step. Behind the best of them, in token ids, K - 1 further completions
are drawn beside its own, which makes K siblings of the second step, and so on up to the answer. A completion is worth
its reward (`prefer.composition`) less a term for its length; one that does not reason in due form counts as unsafe.
A step is worth the mean of all completions through it, so the best way is tried K - 1 times more at each step, and one
that was best by luck alone loses its place before it makes a pair.

Assumption: a step that leads to better completions is the better step, with one completion each to say so at first.
Edge case: what departs from the grammar ends in one long last step; it is never chosen, and as the rejected side its
loss stands on all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from erpo_ray import pairs as pairing
from erpo_ray import traces
from erpo_ray.config import Config
from erpo_ray.config.methods import Steps
from erpo_ray.errors import UsageError
from erpo_ray.judging.composition import Composition, admissible, length_term, reward
from erpo_ray.methods import erpo
from erpo_ray.methods.base import History, Stage, Task
from erpo_ray.methods.rounds import Round
from erpo_ray.pairs import Item
from erpo_ray.steps import Drawn, Node, Preference, grow, preferences, spine
from erpo_ray.types import Group, LeftOut, Pair, Request, identity

STEPS = 4
"""Initial assessment, rule verification, path calibration, answer."""


def stages(config: Config) -> tuple[Stage, ...]:
    """SAFER = imitate, prefer at step level x (1 + N)."""
    if config.prefer.composition == "lexicographic":
        raise UsageError(
            "prefer.composition is lexicographic, an order without values that could be averaged over completions; "
            "set it to stair, lagrangian or gate for method safer"
        )
    length, prefer = config.model.max_length, config.prefer
    training, objective = prefer.fit.training(length, config.seed), prefer.objective()
    return (
        erpo.Imitate(config.imitate.fit.training(length, config.seed)),
        *(Prefer(n, training, objective, steps=config.steps) for n in range(1 + config.rounds.count)),
    )


@dataclass(frozen=True, slots=True)
class Prefer(Round):
    """One round of step-level preference."""

    steps: Steps = field(default_factory=Steps)

    def follow(self, task: Task, history: History, groups: Sequence[Group]) -> list[Request]:
        """K - 1 more completions behind the best step so far, one step further with each pass."""
        found = []
        for group, passes in by_prompt(groups):
            node = spine(self._tree(task, group, self._items(task, group)), passes) if passes < STEPS else None
            if node and node.children and node.value >= self.steps.least:
                found.append(self._behind(task, group, node))
        return found

    def pairs(self, task: Task, history: History, groups: Sequence[Group]) -> tuple[list[Pair], list[LeftOut]]:
        """The best over the worst sibling of each step."""

        def rule(group: Group, items: Sequence[Item]) -> list[Pair] | str:
            root = self._tree(task, group, items)
            kinds = {item.candidate.token_ids: item for item in items}
            found = preferences(root, self.steps.margin, self.steps.least)
            pairs = [_pair(group, each, kinds.values()) for each in found]
            return pairs or f"no two siblings differ in value by more than {self.steps.margin:g}"

        whole = [group for group, _ in by_prompt(groups)]
        return pairing.collect(whole, rule, task.config.prefer, prefer_short=False, seed=self.seed(task))

    def _items(self, task: Task, group: Group) -> list[Item]:
        return pairing.usable(group, task.config.prefer, None, self.traced)[0]

    def _tree(self, task: Task, group: Group, items: Sequence[Item]) -> Node:
        prefer, dialect = task.config.prefer, task.config.model.dialect
        composition = Composition(prefer.composition, prefer.lagrange_multiplier)
        shortest = min((item.scores.length for item in items if item.kind == "length"), default=0)
        return grow(
            Drawn(
                ids := item.candidate.token_ids,
                traces.steps(task.renderer.pieces(ids), dialect),
                worth(group, item, shortest, composition, self.steps.length_weight),
            )
            for item in items
        )

    def _behind(self, task: Task, group: Group, node: Node) -> Request:
        first = self._request(task, group.prompt, task.config.prefer.draw.sampling())
        drawn = len(group.candidates)
        return replace(
            first,
            samples=tuple(range(drawn, drawn + len(first.samples) - 1)),
            sampling=replace(first.sampling, max_tokens=max(1, first.sampling.max_tokens - len(node.prefix))),
            prefix_ids=node.prefix,
        )


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


def worth(group: Group, item: Item, shortest: int, composition: Composition, length_weight: float) -> float:
    """The reward of a completion, less up to `length_weight` for its length where it may be chosen.

    One that did not end in due form counts as unsafe.
    """
    if not item.whole:
        return reward(replace(item.scores, safety=-1.0), composition)
    value = reward(item.scores, composition)
    if not shortest or not admissible(group.prompt.label, item):
        return value
    return value + length_term(max(item.scores.length, shortest), shortest, length_weight)


def _pair(group: Group, found: Preference, items: Iterable[Item]) -> Pair:
    """Of the kind of fault that the worst completion behind the rejected step has."""
    behind = found.rejected.prefix
    led = [item for item in items if item.candidate.token_ids[: len(behind)] == behind]
    kind = next((item.kind for item in led if item.kind != "length"), "length")
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
