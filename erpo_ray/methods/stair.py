"""STAIR: Safety Alignment with Introspective Reasoning (arXiv 2502.02384).

(1) Imitate chains of titled steps. (2) K = 3 rounds of Safety-Informed Monte Carlo tree search over the steps, and DPO
on pairs of sibling steps from the trees:

    R(H, S) = S*H + 2S, H helpfulness and S safety in [-1, 1]          the reward of a whole answer
    UCB     = W/N + c * sqrt(ln N_parent / N)                          which child is searched next
    -log sigmoid(beta * [log-ratio of z^w given s_i - log-ratio of z^l given s_i])

A leaf is evaluated by a rollout and expanded into 4 children when it is visited again; rewards go back up to the root.
Siblings make a pair where their values differ by more than 0.5, the better one is worth at least 0.8, and both were
visited 4 times or end an answer. These numbers are those of the code that came with the paper;
beta and the learning rate could not be read.

Here a completion that is drawn behind a node is its new child and that child's rollout at once. The trees of all
prompts are searched side by side: each pass draws what one selection in every tree asks for, so that the engine has a
full batch. The chain is ERPO's trace: its three sections and the answer are the steps. `prefer.composition: stair` is
the reward R, less `steps.length_weight` for length; a completion in broken form is worth -1, one that cites rules
wrongly 1 less. Of the pairs those are kept whose better side led to a right outcome at least once, balanced over labels
and faults, `prefer.max_pairs` at most. Chosen steps bear an NLL term too (`prefer.nll`; 0 for the loss above alone).

The process reward model from node values, by R alone (`evaluate.values`), and best-of-N and beam search with it
(`evaluate.search`), belong to any run of preferences: `erpo eval RUN --decode beam`.

Assumption: the mean over few rollouts ranks siblings. Edge case: a tree whose completions are all alike has nothing to
pair; its search ends once 4 were drawn behind each step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from erpo_ray.config import Config
from erpo_ray.config.methods import Search
from erpo_ray.methods import erpo
from erpo_ray.methods.base import History, Stage, Task
from erpo_ray.methods.rounds import by_prompt, in_rounds
from erpo_ray.methods.stepwise import StepRound, require_rewards
from erpo_ray.steps import Node, Preference, preferences, ucb
from erpo_ray.types import Group, Request


def stages(config: Config) -> tuple[Stage, ...]:
    """STAIR = imitate, search and prefer x (1 + N)."""
    require_rewards(config)
    return erpo.Imitate.of(config), *in_rounds(config, partial(Prefer, steps=config.steps, search=config.search))


@dataclass(frozen=True, slots=True)
class Prefer(StepRound):
    """One round: a tree for each prompt, and all pairs of siblings that are clear enough."""

    search: Search = field(default_factory=Search)

    def follow(self, task: Task, history: History, groups: Sequence[Group]) -> list[Request]:
        """One selection in every tree that has completions left."""
        found = []
        for group, _ in by_prompt(groups):
            left = self.search.completions - len(group.candidates)
            node = selected(self.tree(task, group), self.search) if left > 0 else None
            if node:
                found.append(self.behind(task, group, node.prefix, min(left, self.search.width - node.visits)))
        return found

    def preferences(self, root: Node) -> Iterable[Preference]:
        """Each sibling over every clearly worse one."""
        return preferences(root, self.steps.margin, self.steps.least, self.search.visits, every=True)


def selected(node: Node, search: Search) -> Node | None:
    """The node to draw behind: the first on the way of highest UCB with fewer than `width` draws; None where all end.

    Draws that say the same are one child: a step with few wordings is not drawn behind for ever.
    """
    if node.ended:
        return None
    if node.visits < search.width:
        return node
    ranked = sorted(node.children.values(), key=lambda child: -ucb(child, node.visits, search.exploration))
    return next((found for child in ranked if (found := selected(child, search))), None)
