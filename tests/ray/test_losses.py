"""Loss terms against hand calculation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from erpo_ray.objectives import Objective, Surrogate
from erpo_ray.train import losses
from erpo_ray.train.losses import preference, target_logps


def terms(chosen, rejected, objective, reference=(0.0, 0.0), tokens=(10, 10), weight=1.0, length_weight=1.0):
    values = (chosen, rejected, *reference, *tokens, weight, length_weight)
    numbers = [torch.tensor([float(value)]) for value in values]
    return preference(*numbers, objective)


def test_zero_margin_is_ln_2() -> None:
    found = terms(-7, -3, Objective(beta=0.3), reference=(-7, -3))
    assert found.loss.item() == pytest.approx(math.log(2), abs=1e-7)
    assert found.sigmoid.item() == pytest.approx(losses.LN2, abs=1e-7)
    assert found.margin.item() == 0


def test_the_loss_is_the_formula() -> None:
    found = terms(-6, -5, Objective(beta=0.5, gamma=0.1, nll=0.2), reference=(-8, -4), tokens=(4, 10), weight=0.25)
    margin = 0.5 * (2 - -1)
    expected = -0.25 * math.log(1 / (1 + math.exp(-(margin + 0.1 * (4 - 10))))) + 0.2 * 6 / 4
    assert found.loss.item() == pytest.approx(expected, rel=1e-6)
    assert found.margin.item() == pytest.approx(1.5)
    assert found.sigmoid.item() == pytest.approx(math.log1p(math.exp(-1.5)), rel=1e-6)
    assert found.nll.item() == pytest.approx(1.5)


def test_the_length_term_has_a_weight_of_its_own() -> None:
    half = terms(-6, -5, Objective(beta=0.5, gamma=0.1), tokens=(4, 10), length_weight=0.5)
    assert half.loss.item() == pytest.approx(math.log1p(math.exp(0.5 + 0.05 * 6)), rel=1e-6)
    none = terms(-6, -5, Objective(beta=0.5, gamma=0.1), tokens=(4, 10), length_weight=0.0)
    assert none.loss.item() == pytest.approx(math.log1p(math.exp(0.5)), rel=1e-6)


def test_swapping_the_sides_flips_the_margin() -> None:
    forth = terms(-6, -5, Objective(beta=0.5), reference=(-8, -4))
    back = terms(-5, -6, Objective(beta=0.5), reference=(-4, -8))
    assert forth.margin.item() == -back.margin.item() != 0


@pytest.mark.parametrize(("tokens", "more"), [((10, 30), True), ((30, 10), False)])
def test_the_length_term_pushes_towards_the_shorter_side(tokens: tuple[int, int], more: bool) -> None:
    def push(gamma: float) -> float:
        chosen = torch.tensor([-5.0], requires_grad=True)
        still = torch.tensor([-5.0])
        lengths = (torch.tensor([length]) for length in tokens)
        ones = torch.ones(1)
        preference(chosen, still, still, still, *lengths, ones, ones, Objective(0.1, gamma)).loss.backward()
        assert chosen.grad is not None
        return -chosen.grad.item()

    assert (push(0.01) > push(0.0)) is more


def test_a_pair_without_weight_has_no_preference_gradient() -> None:
    chosen = torch.tensor([-5.0], requires_grad=True)
    other = torch.tensor([-4.0])
    lengths = (torch.tensor([5]), torch.tensor([5]))
    preference(chosen, other, other, other, *lengths, torch.zeros(1), torch.ones(1), Objective(0.1)).loss.backward()
    assert chosen.grad is not None and chosen.grad.item() == 0


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def simpo(c: float, r: float, _: tuple[float, float], n: tuple[int, int]) -> float:
    """Equation 6 of SimPO with beta 2 and gamma 1."""
    return softplus(-(2 / n[0] * c - 2 / n[1] * r - 1))


def dpo(beta: float, c: float, r: float, ref: tuple[float, float]) -> float:
    return beta * ((c - ref[0]) - (r - ref[1]))


Plain = Callable[[float, float, tuple[float, float], tuple[int, int]], float]
OBJECTIVES: dict[str, tuple[Objective, Plain]] = {
    "dpo": (Objective(0.3), lambda c, r, ref, n: softplus(-dpo(0.3, c, r, ref))),
    "ipo": (Objective(0.3, loss="ipo"), lambda c, r, ref, n: (c - ref[0] - r + ref[1] - 1 / 0.6) ** 2),
    "ipo_per_token": (
        Objective(0.3, loss="ipo", per_token=True),
        lambda c, r, ref, n: ((c - ref[0]) / n[0] - (r - ref[1]) / n[1] - 1 / 0.6) ** 2,
    ),
    "cdpo": (
        Objective(0.3, smoothing=0.1),
        lambda c, r, ref, n: 0.9 * softplus(-dpo(0.3, c, r, ref)) + 0.1 * softplus(dpo(0.3, c, r, ref)),
    ),
    "rdpo": (
        Objective(0.3, gamma=0.02),
        lambda c, r, ref, n: softplus(-(dpo(0.3, c, r, ref) + 0.02 * (n[0] - n[1]))),
    ),
    "rpo": (Objective(0.3, nll=0.5), lambda c, r, ref, n: softplus(-dpo(0.3, c, r, ref)) - 0.5 * c / n[0]),
    "simpo": (Objective(2.0, reference="none", per_token=True, target=1.0), simpo),
}


@pytest.fixture(params=OBJECTIVES)
def objective(request: pytest.FixtureRequest) -> Objective:
    return OBJECTIVES[request.param][0]


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("values", [(-6.0, -5.0, -8.0, -4.0), (-40.0, -90.0, -45.0, -70.0), (-3.0, -3.0, -3.0, -3.0)])
def test_every_objective_and_its_gradient_are_those_of_its_paper(name: str, values: tuple[float, ...]) -> None:
    objective, plain = OBJECTIVES[name]
    lengths, ref = (8, 20), (0.0, 0.0) if objective.reference == "none" else values[2:]
    sides = [torch.tensor([value], requires_grad=True) for value in values[:2]]
    ones = torch.ones(1)
    fixed = (torch.tensor([float(value)]) for value in (*ref, *lengths))
    loss = preference(*sides, *fixed, ones, ones, objective).loss
    loss.backward()
    assert loss.item() == pytest.approx(plain(*values[:2], ref, lengths), rel=1e-5)
    step = 1e-6
    for side, (d_chosen, d_rejected) in zip(sides, ((step, 0.0), (0.0, step)), strict=True):
        up = plain(values[0] + d_chosen, values[1] + d_rejected, ref, lengths)
        down = plain(values[0] - d_chosen, values[1] - d_rejected, ref, lengths)
        assert side.grad is not None
        assert side.grad.item() == pytest.approx((up - down) / (2 * step), rel=1e-4, abs=1e-7)


def test_at_a_zero_margin_every_objective_reports_ln_2_and_the_plain_ones_are_it(objective: Objective) -> None:
    alike = replace(objective, nll=0.0)
    found = terms(-7, -3, alike, reference=(-7, -3), tokens=(5, 5))
    assert found.margin.item() == 0
    assert found.sigmoid.item() == pytest.approx(math.log(2), abs=1e-7)
    if objective.loss == "sigmoid" and not objective.target:
        assert found.loss.item() == pytest.approx(math.log(2), abs=1e-7)


def test_swapping_a_pair_flips_the_margin_of_every_objective(objective: Objective) -> None:
    forth = terms(-6, -5, objective, reference=(-8, -4), tokens=(4, 10))
    back = terms(-5, -6, objective, reference=(-4, -8), tokens=(10, 4))
    assert forth.margin.item() == -back.margin.item() > 0
    assert (
        terms(-6, -5, replace(objective, smoothing=0.0, nll=0.0)).loss
        > terms(-5, -6, replace(objective, smoothing=0.0, nll=0.0)).loss
    )


@pytest.mark.parametrize("name", ["dpo", "ipo", "cdpo", "rdpo"])
def test_log_probability_that_both_sides_share_cancels(name: str) -> None:
    objective, _ = OBJECTIVES[name]
    apart = terms(-6, -5, objective, reference=(-8, -4), tokens=(4, 10))
    behind = terms(-6 - 3, -5 - 3, objective, reference=(-8 - 7, -4 - 7), tokens=(4 + 5, 10 + 5))
    assert behind.loss.item() == pytest.approx(apart.loss.item(), rel=1e-6)


def test_smoothing_leaves_a_sure_pair_with_something_to_unlearn() -> None:
    chosen = torch.tensor([40.0], requires_grad=True)
    zero, one = torch.zeros(1), torch.ones(1)
    preference(chosen, zero, zero, zero, one, one, one, one, Objective(1.0, smoothing=0.1)).loss.backward()
    assert chosen.grad is not None and chosen.grad.item() == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_target_logps_equal_log_softmax_forward_and_backward(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(losses, "_tile", lambda logits: 3)
    torch.manual_seed(0)
    logits, targets, slope = torch.randn(rows, 11) * 4, torch.randint(0, 11, (rows,)), torch.randn(rows)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found = target_logps(ours, targets)
    expected = theirs.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    assert torch.allclose(found, expected, atol=1e-6)
    (found * slope).sum().backward()
    (expected * slope).sum().backward()
    assert ours.grad is not None and theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


def test_target_logps_of_bf16_logits_are_float32() -> None:
    logits = torch.randn(4, 11).bfloat16().requires_grad_()
    found = target_logps(logits, torch.arange(4))
    assert found.dtype == torch.float32
    found.sum().backward()
    assert logits.grad is not None and logits.grad.dtype == torch.bfloat16


PPO = Surrogate(clip=0.2, kl=0.1)


def surrogate(logp: float, old: float, ref: float, advantage: float, objective: Surrogate) -> float:
    """Equation 3 of DeepSeekMath for one token, with its unbiased estimate of the KL, in float64."""
    ratio = math.exp(logp - old)
    gain = min(ratio * advantage, min(max(ratio, 1 - objective.clip), 1 + objective.clip) * advantage)
    return -gain + objective.kl * (math.exp(ref - logp) - (ref - logp) - 1)


TOKENS = [
    # (log p, old, reference, advantage, weight): as it was, within the clip, beyond it on each side with each sign.
    (-1.0, -1.0, -1.0, 0.7, 0.25),
    (-1.0, -1.1, -1.3, -0.7, 0.125),
    (-0.5, -1.0, -0.9, 1.5, 0.125),
    (-0.5, -1.0, -0.4, -1.5, 0.25),
    (-2.0, -1.5, -1.0, 1.5, 0.125),
    (-2.0, -1.5, -2.5, -1.5, 0.125),
]


def gradient(
    objective: Surrogate, tokens: list[tuple[float, ...]] = TOKENS
) -> tuple[losses.PolicyGradient, list[float]]:
    logps, *others = (torch.tensor(column) for column in zip(*tokens, strict=True))
    logps.requires_grad_()
    found = losses.policy_gradient(logps, *others, objective)
    found.loss.backward()
    assert logps.grad is not None
    return found, logps.grad.tolist()


@pytest.mark.parametrize("objective", [PPO, replace(PPO, kl=0.0), replace(PPO, clip=0.7), replace(PPO, kl=2.0)])
def test_a_policy_gradient_is_that_of_the_formula_in_float64(objective: Surrogate) -> None:
    found, slopes = gradient(objective)
    loss = sum(weight * surrogate(*token, objective) for *token, weight in TOKENS)
    assert found.loss.item() == pytest.approx(loss, rel=1e-6)
    step = 1e-6
    for (logp, *token, weight), slope in zip(TOKENS, slopes, strict=True):
        up, down = (weight * surrogate(logp + way * step, *token, objective) for way in (1, -1))
        assert slope == pytest.approx((up - down) / (2 * step), rel=1e-4, abs=1e-6)


def test_before_any_update_the_gradient_is_that_of_reinforce() -> None:
    tokens = [(-1.0, -1.0, -1.0, 0.7, 0.5), (-3.0, -3.0, -3.0, -0.4, 0.5)]
    found, slopes = gradient(PPO, tokens)
    assert slopes == pytest.approx([-0.5 * 0.7, 0.5 * 0.4])
    assert (found.kl.item(), found.clipped.item(), found.drift.item()) == (0, 0, 0)
    assert found.surprisal.item() == pytest.approx(2)


def test_equal_rewards_move_nothing() -> None:
    _, slopes = gradient(PPO, [(-1.0, -1.0, -1.0, 0.0, 0.5), (-3.0, -3.0, -3.0, 0.0, 0.5)])
    assert slopes == [0, 0]


def test_a_token_beyond_the_clip_moves_no_further_but_comes_back() -> None:
    found, slopes = gradient(replace(PPO, kl=0.0))
    assert [slope == 0 for slope in slopes] == [False, False, True, False, False, True]
    assert found.clipped.item() == pytest.approx(0.25)


def test_the_kl_term_is_never_negative_and_pulls_to_the_reference() -> None:
    found, (up, down) = gradient(PPO, [(-1.0, -1.0, -0.5, 0.0, 0.5), (-1.0, -1.0, -1.5, 0.0, 0.5)])
    assert up < 0 < down
    assert found.kl.item() == pytest.approx(((math.exp(0.5) - 1.5) + (math.exp(-0.5) - 0.5)) / 2)


def test_the_contrastive_pivot_loss_is_the_difference_of_two_log_probabilities_and_its_gradient_moves_both() -> None:
    """Logits (1, 3, -1, 0), wanted 0 over 1: -log sigmoid(1 - 3) = 2.1269, slopes -+ sigmoid(2) = .8808."""
    logits = torch.tensor([[1.0, 3.0, -1.0, 0.0], [2.0, 2.0, 0.0, 0.0]], requires_grad=True)
    ahead = losses.contrast(logits, torch.tensor([0, 0]), torch.tensor([1, 1]))
    logps = logits.log_softmax(-1)
    assert torch.allclose(ahead, logps[:, 0] - logps[:, 1], atol=1e-6)
    found = -torch.nn.functional.logsigmoid(ahead)
    assert found.tolist() == pytest.approx([2.1269, math.log(2)], abs=1e-4)
    found.sum().backward()
    assert logits.grad is not None
    slopes = [[-0.8808, 0.8808, 0.0, 0.0], [-0.5, 0.5, 0.0, 0.0]]
    assert logits.grad.tolist() == [pytest.approx(row, abs=1e-4) for row in slopes]


def test_a_contrast_of_bf16_logits_is_float32() -> None:
    ahead = losses.contrast(torch.randn(3, 5).bfloat16(), torch.tensor([0, 1, 2]), torch.tensor([4, 4, 4]))
    assert ahead.dtype == torch.float32
