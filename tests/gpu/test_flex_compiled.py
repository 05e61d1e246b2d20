"""The compiled kernel over the tree against the padded pass of the same model, on the GPU."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from accelerate.utils import send_to_device
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM, LlamaConfig

from erpo_ray.train import forward
from erpo_ray.train.packed import Row

VOCABULARY = 512


def model(heads: int = 6, key_heads: int = 2) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64 * heads,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=2048,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).cuda()


def groups(seed: int, prompts: int = 3, completions: int = 4) -> list[Row]:
    """Prompts under one beginning with several completions each: a tree of three levels, some blocks long."""
    rng = random.Random(seed)

    def ids(least: int, most: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, VOCABULARY) for _ in range(rng.randint(least, most)))

    system = ids(40, 40)
    return [
        (context, ids(1, 300)) for context in [system + ids(5, 200) for _ in range(prompts)] for _ in "x" * completions
    ]


def passed(policy: Any, rows: Sequence[Row], collate: forward.Collate, bf16: bool) -> tuple[Tensor, list[Tensor]]:
    """Log-probabilities, and the gradient of a loss that weighs every row and token differently."""
    policy.zero_grad()
    batch: Any = send_to_device(collate(rows), "cuda")
    weights = torch.linspace(0.5, 1.5, len(batch["token"]), device="cuda")
    with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
        logps = forward.completion_logps(policy, batch, weights)
        (logps * torch.linspace(1, 2, len(rows), device="cuda")).mean().backward()
    return logps.detach(), [weight.grad.clone() for weight in policy.parameters()]


def assert_near(one: list[Tensor], other: list[Tensor], share: float) -> None:
    for mine, theirs in zip(one, other, strict=True):
        assert (mine - theirs).norm() <= share * theirs.norm() + 1e-5


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("seed", range(4))
def test_losses_and_gradients_are_those_of_the_padded_pass(seed: int, bf16: bool) -> None:
    policy, plain = model(), model()
    collate = forward.collator(policy)
    rows = groups(seed)
    assert "tree" in collate(rows)
    ours, mine = passed(policy, rows, collate, bf16)
    theirs, yours = passed(plain, rows, forward.pad, bf16)
    # A random model gives each token about ln of the vocabulary, a row some hundreds of nats.
    assert torch.allclose(ours, theirs, rtol=5e-3 if bf16 else 1e-3)
    assert_near(mine, yours, 5e-2 if bf16 else 1e-2)


def test_a_pass_shorter_than_a_block_and_one_of_a_single_row() -> None:
    policy, plain = model(), model()
    for rows in ([((5, 6, 7), (8, 9)), ((5, 6, 7), (9,))], [((5,) * 300, (8, 9, 10))]):
        ours, mine = passed(policy, rows, forward.collator(policy), False)
        theirs, yours = passed(plain, rows, forward.pad, False)
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-2)
        assert_near(mine, yours, 1e-2)


def test_heads_that_share_keys_seven_by_seven() -> None:
    policy, plain = model(heads=14), model(heads=14)
    ours, _ = passed(policy, groups(9), forward.collator(policy), True)
    theirs, _ = passed(plain, groups(9), forward.pad, True)
    assert torch.allclose(ours, theirs, rtol=5e-3)


def test_recomputed_activations_change_nothing() -> None:
    policy = model()
    ours, mine = passed(policy, groups(1), forward.collator(policy), True)
    policy.gradient_checkpointing_enable()
    policy.train()
    again, too = passed(policy, groups(1), forward.collator(policy), True)
    assert torch.allclose(ours, again, rtol=1e-4)
    assert_near(too, mine, 1e-2)


def test_rows_of_new_lengths_are_not_compiled_anew() -> None:
    policy = model()
    for seed in range(2):
        passed(policy, groups(seed), forward.collator(policy), True)
    traced = counters["stats"]
    traced.clear()
    for seed in range(2, 12):
        passed(policy, groups(seed), forward.collator(policy), True)
    assert traced["unique_graphs"] <= 1


def test_no_scores_of_all_pairs_of_tokens_are_held() -> None:
    policy = model()
    rows = groups(3, prompts=8, completions=12)
    batch: Any = forward.collator(policy)(rows)
    tokens = batch["input_ids"].numel()
    batch = send_to_device(batch, "cuda")
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        forward.completion_logps(policy, batch)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        forward.completion_logps(policy, batch)
        torch.cuda.synchronize()
    assert tokens > 10_000
    assert torch.cuda.max_memory_allocated() - before < tokens**2 / 2
