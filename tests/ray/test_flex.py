"""FlexAttention over the tree on a CPU, where it runs without its compiler: what it sees, what it gives."""

from __future__ import annotations

import random
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_packed import SMALL, group_rows, passed
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn.attention import flex_attention
from torch.nn.attention.flex_attention import create_block_mask, create_mask
from transformers import AutoModelForCausalLM, LlamaConfig

from erpo_ray.train import flex, forward, models, packed
from erpo_ray.train.packed import Row

IDS = st.lists(st.integers(0, 2), min_size=1, max_size=14).map(tuple)
ROWS = st.lists(st.tuples(IDS, IDS), min_size=1, max_size=8)


def dense(rows: list[Row]) -> Tensor:
    """(tokens, tokens) of the pass: what the levels let each token look at."""
    batch = packed.pack(rows)
    tokens = batch["input_ids"].shape[1]
    found = torch.zeros(tokens, tokens, dtype=torch.bool)
    for level in batch["levels"]:
        at, query = level["real"].nonzero(as_tuple=True)
        found_keys = zip(level["queries"][at, query], level["keys"][at], level["seen"][at, query], strict=True)
        for own, keys, seen in found_keys:
            found[own, keys[seen]] = True
    return found


def of_the_mask(rows: list[Row]) -> Tensor:
    batch = packed.pack(rows, whole=True)
    tree, tokens = batch["tree"], batch["input_ids"].shape[1]
    return create_mask(flex.seen(tree["entry"], tree["exit"]), None, None, tokens, tokens, "cpu")[0, 0]


@given(ROWS)
def test_a_token_sees_what_it_sees_level_by_level(rows: list[Row]) -> None:
    assert torch.equal(of_the_mask(rows), dense(rows))


@pytest.mark.parametrize("seed", range(3))
def test_so_it_does_in_trees_of_several_levels(seed: int) -> None:
    rows = group_rows(seed)
    assert len(packed.pack(rows)["levels"]) > 2
    assert torch.equal(of_the_mask(rows), dense(rows))


@settings(max_examples=10)
@given(st.integers(0, 2**32))
def test_blocks_are_those_that_torch_finds_pair_by_pair(seed: int) -> None:
    rng = random.Random(seed)
    contexts = [tuple(rng.choices(range(9), k=rng.randint(1, 400))) for _ in range(3)]
    rows = [(rng.choice(contexts), tuple(rng.choices(range(9), k=rng.randint(1, 300)))) for _ in range(6)]
    batch = packed.pack(rows, whole=True)
    tree, tokens = batch["tree"], batch["input_ids"].shape[1]
    theirs = create_block_mask(
        flex.seen(tree["entry"], tree["exit"]), None, None, tokens, tokens, "cpu", BLOCK_SIZE=flex.BLOCK
    )
    for name in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices"):
        assert torch.equal(tree[name], getattr(theirs, name)), name


def test_blocks_that_are_seen_whole_need_no_mask() -> None:
    tree = packed.pack([((1,) * 3 * flex.BLOCK, (2,))], whole=True)["tree"]
    # The second block sees the first whole, the third both before it.
    assert tree["full_kv_num_blocks"].flatten().tolist()[:3] == [0, 1, 2]


@pytest.fixture
def both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients too: torch has them on a CPU without the compiler, and refuses since it lacks them with it."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    torch._dynamo.reset()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "autocast"])
@pytest.mark.usefixtures("both_ways")
def test_losses_and_gradients_are_those_of_the_levels(seed: int, bf16: bool) -> None:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SMALL))
    rows = group_rows(seed)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logps, gradients = passed(model, rows, packed.pack)
        ours, mine = passed(model, rows, lambda rows: packed.pack(rows, whole=True))
    assert torch.allclose(ours, logps, atol=5e-2 if bf16 else 1e-4)
    for one, other in zip(mine, gradients, strict=True):
        assert (one - other).norm() <= (2e-2 if bf16 else 1e-4) * other.norm() + 1e-5


@pytest.mark.usefixtures("both_ways")
def test_recomputed_activations_change_nothing() -> None:
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(LlamaConfig(**SMALL))

    def whole(rows: Any) -> packed.Batch:
        return packed.pack(rows, whole=True)

    plain = passed(model, group_rows(0), whole)
    model.gradient_checkpointing_enable()
    model.train()
    again = passed(model, group_rows(0), whole)
    assert torch.allclose(plain[0], again[0], atol=1e-6)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(plain[1], again[1], strict=True))


@pytest.mark.usefixtures("both_ways")
def test_rows_of_new_lengths_are_not_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as a CPU shows it: the graphs are traced and differentiated, and run without kernels of their own."""
    monkeypatch.setattr(flex, "_run", torch.compile(flex._run, backend="aot_eager"))
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SMALL, head_dim=16))
    traced = counters["stats"]
    traced.clear()
    for length in (300, 150, 700, 90, 513, 1100):
        passed(model, [((5,) * length, (6, 7)), ((5,) * length, (8,))], lambda rows: packed.pack(rows, whole=True))
    assert 1 <= traced["unique_graphs"] <= 3


def test_a_model_on_a_cpu_goes_level_by_level(tmp_path: Any) -> None:
    batch = forward.collator(models.load(tiny.policy(tmp_path)))([((3, 4), (5,))])
    assert "levels" in batch and "tree" not in batch


@pytest.mark.parametrize(
    ("device", "more", "taken"),
    [
        ("cuda", {"head_dim": 16}, True),
        ("cpu", {"head_dim": 16}, False),
        ("cuda", {"head_dim": 8}, False),
        ("cuda", {"head_dim": 16, "attention_dropout": 0.1}, False),
    ],
)
def test_what_the_kernel_cannot_do_is_left_to_the_levels(device: str, more: dict[str, Any], taken: bool) -> None:
    class Placed:
        config = LlamaConfig(**SMALL, **more)

    Placed.device = torch.device(device)  # type: ignore[attr-defined]
    assert flex.takes(Placed) is taken
