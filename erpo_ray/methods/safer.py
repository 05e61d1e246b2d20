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
its reward (`prefer.composition`) less a term for its length; one that does not reason in due form counts as unsafe,
one that only cites rules wrongly loses a little.
A step is worth the mean of all completions through it, so the best way is tried K - 1 times more at each step, and one
that was best by luck alone can lose its place before it makes a pair; the rejected step has its one completion.
Chosen steps bear an NLL term too (`prefer.nll`; 0 for the loss above alone).

Assumption: a step that leads to better completions is the better step, with one completion each to say so at first.
Edge case: what departs from the grammar ends in one long last step; it is never chosen, and as the rejected side its
loss stands on all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from erpo_ray.config import Config
from erpo_ray.methods import erpo
from erpo_ray.methods.base import History, Stage, Task
from erpo_ray.methods.rounds import by_prompt, in_rounds
from erpo_ray.methods.stepwise import StepRound, require_rewards
from erpo_ray.steps import spine
from erpo_ray.types import Group, Request

STEPS = 4
"""Initial assessment, rule verification, path calibration, answer."""


def stages(config: Config) -> tuple[Stage, ...]:
    """SAFER = imitate, prefer at step level x (1 + N)."""
    require_rewards(config)
    return erpo.Imitate.of(config), *in_rounds(config, partial(Prefer, steps=config.steps))


@dataclass(frozen=True, slots=True)
class Prefer(StepRound):
    """One round of step-level preference."""

    def follow(self, task: Task, history: History, groups: Sequence[Group]) -> list[Request]:
        """K - 1 more completions behind the best step so far, one step further with each pass."""
        found = []
        for group, passes in by_prompt(groups):
            node = spine(self.tree(task, group), passes) if passes < STEPS else None
            if node and node.children and node.value >= self.steps.least:
                found.append(self.behind(task, group, node.prefix, task.config.prefer.samples - 1))
        return found
