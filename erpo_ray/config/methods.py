"""What only one method reads."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from erpo_ray.config.section import Section
from erpo_ray.config.training import Draw


class Constraint(Section):
    """The constraint of `cdpo`: mean cost of what the policy says at most `cost_limit`.

    The multiplier starts at `prefer.lagrange_multiplier`. The paper's own numbers are not known here."""

    cost_limit: float = Field(default=0.05, ge=0, le=1)
    """C. The cost of a completion is (1 - safety) / 2: the probability of harm where a judge grades safety by it."""
    rate: float = Field(default=4.0, gt=0)
    """Step of the multiplier for a cost of 1 above the limit."""
    max_multiplier: float = Field(default=10.0, gt=0)
    tolerance: float = Field(default=0.02, ge=0)
    """The method ends when the mean cost is this near to the limit, or below it with a multiplier of 0."""
    margin: float = Field(default=0.3, gt=0)
    """Least difference in reward - multiplier * cost that makes a pair: smaller ones are noise of the judge."""


class Transitions(Section):
    """What `derta` makes of a harmful answer. Defaults follow the code that came with the paper."""

    positions: float = Field(default=0.05, gt=0, le=1)
    """Share of the tokens of a harmful answer before which a refusal is to begin. The authors keep one in twenty for 8B
    models."""
    unspoilt: float = Field(default=1 / 3, ge=0, le=1)
    """Share of the safe answers that follow the prompt at once, with no harmful beginning before them."""


class Pivots(Section):
    """The two losses of `r2d`."""

    weight: float = Field(default=1.0, ge=0)
    """Of the contrastive pivot loss; 0 leaves it out."""
    normalise: Literal["parts", "tokens"] = "parts"
    """`parts`: reasoning and answer weigh the same, however long each is (1/T_R and 1/T_A, the paper). `tokens`: every
    token weighs the same (the code that came with it)."""


class Steps(Section):
    """Of methods that prefer single steps of the reasoning to others (`safer`). Values are those of
    `prefer.composition`, which has to be one with a reward. Defaults are STAIR's; SAFER's own are not known here."""

    margin: float = Field(default=0.5, ge=0)
    """Least difference in value of two siblings that makes a pair."""
    least: float = Field(default=0.8)
    """Least value of a step that is chosen or gone on from."""
    length_weight: float = Field(default=0.5, ge=0)
    """What a completion twice as long as the shortest that passes loses in reward."""


class Search(Section):
    """The tree search of `stair`. Exploration, width and visits are those of the code that came with the paper, which
    goes on for 200 iterations."""

    completions: int = Field(default=24, ge=2)
    """Drawn for each prompt in all, the first K (`prefer.samples`) among them."""
    width: int = Field(default=4, ge=2)
    """Completions drawn behind a node before the search goes deeper."""
    exploration: float = Field(default=1.5, ge=0)
    """c of UCB: mean reward + c * sqrt(ln N_parent / N)."""
    visits: int = Field(default=4, ge=1)
    """Completions through a step before it stands in a pair, unless it ends one."""


class Reflection(Section):
    """The process pairs of `saro`. The paper's own numbers are not known here."""

    share: float = Field(default=0.5, gt=0, lt=1)
    """Share of the tokens before a chain names the intent that continuations of it have in common."""
    margin: int = Field(default=4, ge=1)
    """Tokens by which the rejected chain names it later, at least."""


class Evolution(Section):
    """The prompt evolution of `sos`. The authors' sizes and weights are not known here."""

    prompts: int = Field(default=32, ge=2)
    """Prompts that every system prompt is tried on, half of them harmful."""
    max_tokens: int = Field(default=80, ge=8)
    """Longest answer to one of them."""
    mutate: Literal["bank", "policy"] = "bank"
    """Who writes new system prompts: a bank of sentences, or the model itself, which has to be able to."""
    rewrite: Draw = Draw(max_tokens=256)
    """How the model writes one (`policy`)."""
    children: int = Field(default=4, ge=1)
    """New system prompts of a generation."""
    generations: int = Field(default=3, ge=1)
    """Of one objective, at most; then it is the other's turn."""
    delta: float = Field(default=1e-5, ge=0)
    """A generation that gains no more than this ends its objective."""
    utility_weight: float = Field(default=0.5, ge=0, le=1)
    """w1; safety has the rest."""
