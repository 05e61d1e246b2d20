"""What a finished stage tells the next one, from the gate's decision and the stage's samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from erpo_ray.config import Config
from erpo_ray.evaluate.gate import Decision
from erpo_ray.methods.base import History, Outcome, Stage
from erpo_ray.pairs import median_passing_length
from erpo_ray.types import Evaluation, Group, Policy


def outcome_of(
    name: str,
    stage: Stage,
    decision: Decision,
    kept: tuple[Policy, Evaluation],
    measured: Evaluation,
    history: History,
    groups: Sequence[Group],
    config: Config,
) -> Outcome:
    """Of the stage directory `name`: `kept` is the policy to go on with and its figures, `measured` the new one's."""
    policy, figures = kept
    plain = Outcome(name, stage.kind, decision.accepted, decision.reason, policy, figures, measured, {}, ())
    if stage.kind == "imitate" or stage.kind == "evolve":
        return plain
    lengths = median_passing_length(groups, config.prefer.min_utility, stage.traced)
    missed = tuple(dict.fromkeys(group.prompt.id for group in groups if _wrong(group)))
    return replace(plain, lengths=lengths, missed=missed, state=stage.state(history, groups))


def shortens(stage: Stage) -> bool:
    """Whether the stage charges for length, so that it is told of when lengths did not fall."""
    if stage.kind == "prefer":
        return stage.objective.gamma > 0
    return stage.kind == "reinforce" and stage.shorten


def _wrong(group: Group) -> bool:
    """Whether a candidate complied with harm or refused the harmless."""
    harmful = group.prompt.label == "harmful"
    return any(v.scores is not None and v.refused != harmful for v in group.verdicts)
