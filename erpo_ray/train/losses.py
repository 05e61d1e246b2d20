"""Losses as pure functions of tensors: no model, no trainer, no state."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from erpo_ray.objectives import Objective, Surrogate

LN2 = 0.6931471805599453


class Preference(NamedTuple):
    """What one batch of pairs gives: `loss` is a scalar, the others hold one value a pair and carry no gradient."""

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

    chosen, rejected, reference_*: summed log-probability of each completion, float32, shape (pairs,); of the reference
    zeros where the objective has none. *_tokens: their lengths in tokens. weights: one factor a pair on the preference
    term, not on the anchor; length_weights: one on the length term.

    `margin` is beta * (log-ratio of chosen - log-ratio of rejected), per token where the objective says so: 0 when
    policy and reference agree. `sigmoid` is -log sigmoid of it, ln 2 there, whatever is added or optimised.
    """
    better, worse = chosen - reference_chosen, rejected - reference_rejected
    if objective.per_token:
        better, worse = better / chosen_tokens, worse / rejected_tokens
    margin = objective.beta * (better - worse)
    logit = margin + objective.gamma * length_weights * (chosen_tokens - rejected_tokens) - objective.target
    right, wrong = _term(logit, objective), _term(-logit, objective)
    nll = -chosen / chosen_tokens
    preferred = (1 - objective.smoothing) * right + objective.smoothing * wrong
    loss = (weights * preferred + objective.nll * nll).mean()
    return Preference(loss, margin.detach(), -F.logsigmoid(margin.detach()), nll.detach())


def _term(logit: Tensor, objective: Objective) -> Tensor:
    """The loss of a pair by how far, in units of reward, its chosen side is ahead.

    IPO (Azar et al. 2023, equation 17) wants log-ratios exactly 1 / (2 beta) apart, which is a logit of a half.
    """
    if objective.loss == "ipo":
        return ((logit - 0.5) / objective.beta) ** 2
    return -F.logsigmoid(logit)


class PolicyGradient(NamedTuple):
    """What one batch of completions gives: `loss` with its gradient, the rest without, all scalars.

    Means over tokens, weighed as in the loss: `kl`, `clipped` (share of tokens without gradient from their advantage),
    `surprisal` (-log p), `drift` (|log p - log p_old|).
    """

    loss: Tensor
    kl: Tensor
    clipped: Tensor
    surprisal: Tensor
    drift: Tensor


def policy_gradient(
    logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, weights: Tensor, objective: Surrogate
) -> PolicyGradient:
    """The loss that `Surrogate` describes: the mean over tokens, by their weights.

    All of shape (tokens,), float32: log-probabilities of the completion tokens under the policy, under the one that it
    started from and under the reference (not read without a KL term), the advantage of the completion that each token
    stands in, and its weight.
    """
    ratio = (logps - old).exp()
    whole, cut = ratio * advantages, ratio.clamp(1 - objective.clip, 1 + objective.clip) * advantages
    loss = -torch.minimum(whole, cut)
    kl = torch.zeros_like(logps)
    if objective.kl:
        away = reference - logps
        kl = away.exp() - away - 1
        loss = loss + objective.kl * kl

    def mean(values: Tensor) -> Tensor:
        return (weights * values).sum() / weights.sum()

    with torch.no_grad():
        told = mean(kl), mean((cut < whole).float()), mean(-logps), mean((logps - old).abs())
    return PolicyGradient(mean(loss), *told)


def contrast(logits: Tensor, chosen: Tensor, rejected: Tensor) -> Tensor:
    """z(chosen) - z(rejected) in float32, for logits (n, vocabulary) and token ids (n,).

    R2D's contrastive pivot loss (arXiv 2502.12970) is -log sigmoid of it: log P(t+) - log P(t-), whose normaliser
    cancels.
    """
    return (logits.gather(1, chosen[:, None]).float() - logits.gather(1, rejected[:, None]).float())[:, 0]


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
