"""Loss terms against hand calculation."""

from __future__ import annotations

import math

import pytest
import torch

from erpo_ray.train import losses
from erpo_ray.train.losses import preference, target_logps
from erpo_ray.types import Objective


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
