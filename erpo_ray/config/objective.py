"""The objective of prefer stages: what `objectives.Objective` says, where YAML enters."""

from __future__ import annotations

from pydantic import Field

from erpo_ray.config.section import Section
from erpo_ray.objectives import Objective, PreferenceLoss, Reference


class Objectives(Section):
    """Terms of the preference loss; the formula is that of `objectives.Objective`."""

    loss: PreferenceLoss = "sigmoid"
    """`sigmoid` (DPO), or `ipo`, which wants a margin of 1 / (2 beta) and no more. IPO is commonly used `per_token`."""
    beta: float = Field(default=0.1, gt=0)
    gamma: float = Field(default=0.0, ge=0)
    """Weight of the length term, in nats a token (R-DPO). Length-controlled rounds have `rounds.gamma` in its place."""
    nll: float = Field(default=0.2, ge=0)
    """Weight of the NLL anchor on the chosen completion."""
    per_token: bool = False
    """Divide the log-probabilities of each side by its tokens (SimPO)."""
    target: float = Field(default=0.0, ge=0)
    """Margin that the chosen side has to have before the loss falls below ln 2 (SimPO)."""
    smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of pairs taken to be the wrong way round (cDPO's label smoothing)."""
    reference: Reference = "previous"
    """The policy that a stage starts from, that of the imitate stage, the base model, or `none` (SimPO)."""

    def objective(self, gamma: float | None = None) -> Objective:
        """The objective of a stage, with a weight of the length term of its own where one is given."""
        return Objective(
            beta=self.beta,
            gamma=self.gamma if gamma is None else gamma,
            nll=self.nll,
            reference=self.reference,
            loss=self.loss,
            per_token=self.per_token,
            target=self.target,
            smoothing=self.smoothing,
        )
