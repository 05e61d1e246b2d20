"""What a stage minimises and how it trains, as data: between a method, which says it, and the trainer, which does it.

As the types beside them these survive pickle and JSON, and hold no tensor, handle or callable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reference = Literal["previous", "imitate", "base", "none"]
PreferenceLoss = Literal["sigmoid", "ipo"]
Normaliser = Literal["sequence", "token"]


@dataclass(frozen=True, slots=True)
class Objective:
    """What a prefer stage minimises, as data; the trainer knows no method.

    loss = w * ((1 - smoothing) * f(x) + smoothing * f(-x)) + nll * (-log p(chosen) / |chosen|),
    x    = beta * margin + gamma * v * (|chosen| - |rejected|) - target,
    margin = log-ratio(chosen) - log-ratio(rejected) against the reference; w and v are the pair's weights.

    f is -log sigmoid(x) or, for `ipo`, ((x - 1/2) / beta)^2. With `per_token` each log-ratio is divided by the tokens
    of its side. `reference` `none` compares log-probabilities alone. Every default but `previous` leaves its term out.

    Length term: a shorter chosen side leaves more to learn, a longer one less, which is what a reward that charges
    gamma a token derives to. Sources: DPO (Rafailov et al. 2023), IPO (Azar et al. 2023), cDPO's label smoothing
    (Mitchell 2023), R-DPO's length term (Park et al. 2024), SimPO (Meng et al. 2024: `per_token`, `target`, no
    reference), NLL anchor (Iterative RPO, Pang et al. 2024). What carries no loss (a shared step, a masked section) and
    what weighs more is for the pair to say.
    """

    beta: float
    gamma: float = 0.0
    nll: float = 0.0
    reference: Reference = "previous"
    loss: PreferenceLoss = "sigmoid"
    per_token: bool = False
    target: float = 0.0
    smoothing: float = 0.0


@dataclass(frozen=True, slots=True)
class Surrogate:
    """What a reinforce stage minimises, as data: for a token with ratio q = p(token) / p_old(token) and advantage A

    loss = -min(q * A, clamp(q, 1 - clip, 1 + clip) * A) + kl * (e^d - d - 1),    d = log p_ref(token) - log p(token).

    p_old is the policy that the stage starts from. The last factor is never negative, and 0 where the two agree (k3 of
    Schulman 2020, an estimate of KL(p || p_ref) for tokens drawn from p at temperature 1). `normalise` says how tokens
    weigh: `sequence` averages over the tokens of each completion and then over the completions of a group (GRPO, arXiv
    2402.03300), `token` over all tokens of a group (DAPO, arXiv 2503.14476), where a long completion weighs more.
    Groups are averaged.
    """

    clip: float
    kl: float = 0.0
    reference: Reference = "previous"
    normalise: Normaliser = "sequence"


@dataclass(frozen=True, slots=True)
class Training:
    """How a stage trains, whatever its loss. `batch_size` is global: rows (pairs, groups) an optimiser step."""

    learning_rate: float
    epochs: float
    batch_size: int
    micro_batch_size: int
    max_length: int
    warmup_ratio: float = 0.05
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    schedule: str = "cosine"
    seed: int = 0
    max_steps: int = -1
    save_steps: int = 0
    gradient_checkpointing: bool = False
    shard: bool = False
    freeze_layers: int = 0
    bf16: bool = True
    lora_rank: int = 0
    lora_alpha: int = 0
    lora_targets: tuple[str, ...] = ()
    lora_whole: tuple[str, ...] = ()
