"""What reinforce stages read, where YAML enters."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from erpo_ray.config.section import Section
from erpo_ray.objectives import Normaliser, Surrogate

AdvantageName = Literal["grpo", "mean", "rloo"]
RewardName = Literal["stair", "lagrangian", "gate"]


class Reinforce(Section):
    """How judged groups become rewards, and what is minimised (`objectives.Surrogate`). Prompts, samples and optimiser
    are those of `prefer`. The defaults of `clip` and `kl` are common ones."""

    advantage: AdvantageName = "grpo"
    """A reward less the mean of its group over their standard deviation (`grpo`), less the mean alone (`mean`, as in
    Dr. GRPO), or less the mean of the others (`rloo`)."""
    reward: RewardName = "gate"
    """What a completion is worth, as `prefer.composition`. `gate`: nothing where it is unsafe, as in SCPO. Lambda of
    `lagrangian` is `prefer.lagrange_multiplier`."""
    length_weight: float = Field(default=0.2, ge=0)
    """What a completion twice as long as the shortest of its group that passes loses in reward."""
    margin: float = Field(default=0.1, ge=0)
    """Groups whose rewards all lie within this are not learnt from: smaller differences are noise of the judge."""
    clip: float = Field(default=0.2, gt=0, lt=1)
    """How far the probability of a token may move from where the stage began before it has no gradient any more."""
    kl: float = Field(default=0.04, ge=0)
    """Weight of the divergence from the reference."""
    normalise: Normaliser = "sequence"
    """Whether completions of a group weigh the same, or their tokens do."""
    reference: Literal["previous", "imitate", "base"] = "previous"
    """The policy that a stage starts from, that of the imitate stage, or the base model."""

    def objective(self) -> Surrogate:
        return Surrogate(self.clip, self.kl, self.reference, self.normalise)
