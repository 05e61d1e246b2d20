"""Losses as pure functions of tensors: no model, no trainer, no state."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from erpo_ray.types import Objective

LN2 = 0.6931471805599453


class Preference(NamedTuple):
    """Terms of one batch of pairs: `loss` is a scalar, the others hold one value a pair and carry no gradient."""

    loss: Tensor
    margin: Tensor
    sigmoid: Tensor
    nll: Tensor


def preference(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    chosen_tokens: Tensor,
    rejected_tokens: Tensor,
    weights: Tensor,
    length_weights: Tensor,
    objective: Objective,
) -> Preference:
    """The loss that `Objective` describes, averaged over the pairs.

    chosen, rejected, reference_*: summed log-probability of each completion, float32, shape (pairs,).
    *_tokens: their lengths in tokens. weights: one factor a pair on the preference term, not on the anchor;
    length_weights: one on the length term.

    `margin` is beta * (log-ratio of chosen - log-ratio of rejected): 0 when policy and reference agree, where the
    preference term is ln 2. The length term adds gamma * (|chosen| - |rejected|) inside the sigmoid, with the sign that
    R-DPO (Park et al. 2024) derives from a reward that charges gamma a token: a shorter chosen side leaves more to
    learn, a longer one less.
    """
    margin = objective.beta * ((chosen - reference_chosen) - (rejected - reference_rejected))
    shift = objective.gamma * length_weights * (chosen_tokens - rejected_tokens)
    sigmoid = -F.logsigmoid(margin + shift)
    nll = -chosen / chosen_tokens
    loss = (weights * sigmoid + objective.nll * nll).mean()
    return Preference(loss, margin.detach(), -F.logsigmoid(margin.detach()), nll.detach())


def target_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """log p(target) in float32 for logits (n, vocabulary) of any floating type and targets (n,).

    Works tile by tile, forward and backward: the logits are kept once, in their own type, and no float32 copy of all of
    them is ever made.
    """
    return _TargetLogps.apply(logits, targets)


class _TargetLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        normaliser = torch.cat([tile.float().logsumexp(-1) for tile in logits.split(_tile(logits))])
        ctx.save_for_backward(logits, targets, normaliser)
        return logits.gather(1, targets[:, None])[:, 0].float() - normaliser

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, targets, normaliser = ctx.saved_tensors
        out = torch.empty_like(logits)
        size = _tile(logits)
        for into, tile, target, norm, gradient in zip(
            out.split(size),
            logits.split(size),
            targets.split(size),
            normaliser.split(size),
            gradients[0].split(size),
            strict=True,
        ):
            slope = (tile.float() - norm[:, None]).exp_()
            slope[torch.arange(len(slope), device=slope.device), target] -= 1
            into.copy_(slope.mul_(-gradient[:, None]))
        return out, None


def _tile(logits: Tensor) -> int:
    """Rows whose float32 copy takes 64 MiB."""
    return max(1, 2**24 // logits.shape[1])
