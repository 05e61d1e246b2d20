"""The tree that a prompt's completions make: they share their first steps, and part where they were drawn apart.

A step is a section of the trace, or the answer (`traces.steps`). A node stands for the token ids that lead to it, so
siblings are different ways to write the same step behind the very same ids. Every completion gives its reward to all
nodes it passes through: the value of a node is the mean of these, as in Monte Carlo tree search.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from erpo_ray.traces import Step

Ids = tuple[int, ...]


@dataclass(slots=True)
class Node:
    """A step, by the ids from the begin of the completion up to its end; the root has none and stands for the prompt.

    `start`: where its own ids begin. `rewards`: those of all completions through it. `ended`: one of them ends here.
    """

    name: str
    prefix: Ids
    start: int
    rewards: list[float] = field(default_factory=list)
    children: dict[Ids, Node] = field(default_factory=dict)
    ended: bool = False

    @property
    def ids(self) -> Ids:
        """Of the step alone."""
        return self.prefix[self.start :]

    @property
    def visits(self) -> int:
        return len(self.rewards)

    @property
    def value(self) -> float:
        """Mean reward of the completions through it."""
        return fmean(self.rewards)

    def nodes(self) -> Iterator[Node]:
        """This node, then those below it, in the order drawn."""
        yield self
        for child in self.children.values():
            yield from child.nodes()


@dataclass(frozen=True, slots=True)
class Drawn:
    """A completion as the tree takes it: its ids, the steps they fall into, and what it is worth."""

    ids: Ids
    steps: Sequence[Step]
    reward: float


def grow(drawn: Iterable[Drawn]) -> Node:
    """The tree of these completions. One without steps is a single one, named `all`."""
    root = Node("", (), 0)
    for one in drawn:
        node = root
        node.rewards.append(one.reward)
        for step in one.steps or (Step("all", 0, len(one.ids)),):
            prefix = one.ids[: step.end]
            node = node.children.setdefault(prefix, Node(step.name, prefix, step.start))
            node.rewards.append(one.reward)
        node.ended = True
    return root


@dataclass(frozen=True, slots=True)
class Preference:
    """Two siblings, the better one chosen, with the ids that both stand behind."""

    prefix_ids: Ids
    chosen: Node
    rejected: Node

    @property
    def gap(self) -> float:
        return self.chosen.value - self.rejected.value


def preferences(root: Node, margin: float, least: float, visits: int = 1, every: bool = False) -> Iterator[Preference]:
    """The best sibling over the worst at every node, or with `every` each over each worse one.

    They differ in value by more than `margin`, the chosen one is worth at least `least`, and both were visited so often
    or are where a completion ends: of those nothing more can be learnt (STAIR: 0.5, 0.8 and 4).
    """
    for node in root.nodes():
        known = [child for child in node.children.values() if child.ended or child.visits >= visits]
        ranked = sorted(known, key=lambda child: (-child.value, len(child.ids), child.ids))
        pairs = ((a, b) for i, a in enumerate(ranked) for b in ranked[i + 1 :]) if every else _ends(ranked)
        for chosen, rejected in pairs:
            if chosen.value >= least and chosen.value - rejected.value > margin:
                yield Preference(node.prefix, chosen, rejected)


def _ends(ranked: Sequence[Node]) -> Iterator[tuple[Node, Node]]:
    if len(ranked) > 1:
        yield ranked[0], ranked[-1]


def spine(root: Node, depth: int) -> Node | None:
    """The node that so many best steps lead to; None where the best way ends before."""
    node = root
    for _ in range(depth):
        if not node.children:
            return None
        node = max(node.children.values(), key=lambda child: (child.value, -len(child.ids)))
    return node


def ucb(child: Node, parent_visits: int, exploration: float) -> float:
    """Upper confidence bound: W/N + c * sqrt(ln N_parent / N); infinite before the first visit."""
    if not child.visits:
        return math.inf
    return child.value + exploration * math.sqrt(math.log(parent_visits) / child.visits)
