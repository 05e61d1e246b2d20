"""DPO without traces (Rafailov et al. 2023, arXiv 2305.18290), on pairs of the policy's own answers.

Sample K plain answers to a prompt, prefer the safe over the unsafe, the useful over the refusal of the harmless, and
raise log sigmoid(beta * (log-ratio of chosen - log-ratio of rejected)). Iterated: each round samples from the last
policy and takes it as its reference. Nothing is imitated first and no thought precedes an answer.

R-DPO (Park et al. 2024, arXiv 2403.19159) is this with `prefer.gamma`: the length term stands in every pair, as there,
and not in pairs about length only, as in ERPO. SimPO (Meng et al. 2024, arXiv 2405.14734) is this with no reference,
log-probabilities per token and a target margin; IPO and cDPO are settings too (`objectives.Objective`).

Assumption: the base model refuses some harmful prompts now and then. Edge case: a group without a single safe answer
gives no pair, so that a model which never refuses learns nothing here; `left_out.jsonl` counts such groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from erpo_ray.config import Config
from erpo_ray.methods.base import History, Stage, Task
from erpo_ray.methods.rounds import Round, in_rounds
from erpo_ray.types import Group, LeftOut, Pair


def stages(config: Config) -> tuple[Stage, ...]:
    """DPO = prefer x (1 + N)."""
    return in_rounds(config, partial(Prefer, traced=False))


@dataclass(frozen=True, slots=True)
class Prefer(Round):
    """One round on plain answers."""

    def pairs(self, task: Task, history: History, groups: Sequence[Group]) -> tuple[list[Pair], list[LeftOut]]:
        """As in any round; each pair is charged for length in full."""
        found, left_out = Round.pairs(self, task, history, groups)
        return [replace(pair, length_weight=1.0) for pair in found], left_out
