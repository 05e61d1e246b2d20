"""The packed pass against the padded one: same log-probabilities, same gradients, fewer tokens."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GemmaConfig, MistralConfig, Qwen2Config

from erpo_ray.train import forward, models, packed
from erpo_ray.train.packed import Row
from erpo_ray.train.rows import pairs

SMALL: dict[str, Any] = dict(
    vocab_size=tiny.VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return tiny.policy(tmp_path / "policy")


def group_rows(seed: int) -> list[Row]:
    """Rows of several prompts under one beginning, some with several completions, some with an equal one."""
    rng = random.Random(seed)

    def ids(least: int, most: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, tiny.VOCABULARY) for _ in range(rng.randint(least, most)))

    system = ids(9, 9)
    contexts = [system + ids(0, 12) for _ in range(4)]
    contexts.append(contexts[0] + ids(8, 10))
    rows: list[Row] = [(rng.choice(contexts), (*ids(0, 20), 2)) for _ in range(10)]
    return [*rows, rows[0], (ids(3, 5), (*ids(2, 4), 2))]


def passed(model: Any, rows: Sequence[Row], collate: forward.Collate) -> tuple[Tensor, list[Tensor]]:
    """Log-probabilities, and the gradient of a loss that weighs every row and token differently."""
    model.zero_grad()
    batch = collate(rows)
    logps = forward.completion_logps(model, batch, torch.linspace(0.5, 1.5, len(batch["token"])))
    (logps * torch.linspace(1, 2, len(rows))).sum().backward()
    return logps.detach(), [weight.grad.clone() for weight in model.parameters()]


def assert_equal(model: Any, rows: Sequence[Row]) -> None:
    plain = copy.deepcopy(model)
    (ours, mine), (theirs, yours) = passed(model, rows, packed.pack), passed(plain, rows, forward.pad)
    assert torch.allclose(ours, theirs, atol=1e-4)
    for one, other in zip(mine, yours, strict=True):
        assert torch.allclose(one, other, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("short", [0, 512])
def test_losses_and_gradients_are_those_of_the_padded_pass(
    policy: Path, monkeypatch: pytest.MonkeyPatch, seed: int, short: int
) -> None:
    monkeypatch.setattr(packed, "SHORT", short)
    assert_equal(models.load(policy), group_rows(seed))


def test_recomputed_activations_change_nothing(policy: Path) -> None:
    model = models.load(policy)
    plain = passed(model, group_rows(0), packed.pack)
    model.gradient_checkpointing_enable()
    model.train()
    again = passed(model, group_rows(0), packed.pack)
    assert torch.allclose(plain[0], again[0], atol=1e-6)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(plain[1], again[1], strict=True))


@pytest.mark.parametrize(
    "config",
    [Qwen2Config(**SMALL), GemmaConfig(**SMALL, head_dim=8), MistralConfig(**SMALL, sliding_window=None)],
    ids=lambda config: config.model_type,
)
def test_other_families_take_it_too(config: Any) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    assert packed.takes(model)
    assert_equal(model, group_rows(1))


def test_a_model_that_looks_at_a_window_only_is_padded() -> None:
    model = AutoModelForCausalLM.from_config(MistralConfig(**SMALL, sliding_window=8))
    assert not packed.takes(model) and forward.collator(model) is forward.pad


def test_every_distinct_token_runs_once(policy: Path) -> None:
    model: Any = models.load(policy)
    sizes: list[int] = []
    model.model.register_forward_hook(lambda _, __, out: sizes.append(out[0].shape[0] * out[0].shape[1]))
    prompt = tuple(range(3, 23))
    rows = [(prompt, (5, 6, 2)), (prompt, (5, 7, 2)), (prompt, (5, 6, 2)), (prompt, (9, 2))]
    batch = packed.pack(rows)
    forward.completion_logps(model, batch)
    assert sizes == [20 + 3 + 3 + 2] == [forward.tokens_of(batch)]
    assert forward.tokens_of(forward.pad(rows)) == 4 * 20 + 3 + 3 + 3 + 2


def test_scores_come_in_the_order_of_the_rows(policy: Path) -> None:
    model, rows = models.load(policy), pairs(tiny.pairs(9), 64)
    found = forward.sequence_logps(model, rows, batch_size=4, bf16=False)
    model = models.load(policy)
    for row, scores in zip(rows, found, strict=True):
        batch = forward.pad([(row.context, completion) for completion in row.completions])
        assert scores == pytest.approx(forward.completion_logps(model, batch).tolist(), abs=1e-4)


def test_a_trained_policy_does_not_name_our_attention(policy: Path, tmp_path: Path) -> None:
    model = models.load(policy)
    forward.completion_logps(model, packed.pack(group_rows(0)))
    model.save_pretrained(tmp_path / "out")
    assert packed.ATTENTION not in (tmp_path / "out/config.json").read_text()
