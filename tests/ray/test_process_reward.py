"""The process reward model on a tiny real policy: its states, its file, and whose it is."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

from erpo_ray.engines import process_reward
from erpo_ray.engines.process_reward import ProcessReward, states
from erpo_ray.errors import UsageError
from erpo_ray.evaluate.values import Valued
from erpo_ray.train.weights import version


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.policy(tmp_path_factory.mktemp("policy") / "model")


def rows(count: int) -> list[tuple[int, ...]]:
    rng = random.Random(0)
    return [tuple(rng.randrange(3, tiny.VOCABULARY) for _ in range(rng.randrange(2, 30))) for _ in range(count)]


def test_states_are_those_of_each_row_alone(policy: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32).eval()
    asked = rows(21)
    found = states(model, asked)
    assert found.shape == (21, 32) and found.dtype == np.float32
    for row, state in zip(asked, found, strict=True):
        with torch.no_grad():
            alone = model(torch.tensor([row]), output_hidden_states=True).hidden_states[-1][0, -1]
        assert np.allclose(state, alone.numpy(), atol=1e-5)


def test_a_head_is_learnt_kept_and_belongs_to_one_policy(policy: Path, tmp_path: Path) -> None:
    # A row ends with one of two tokens, and its worth with it: the state at its end tells them apart.
    asked = [(*row, 5 + row[0] % 2) for row in rows(300)]
    nodes = [Valued(f"p{at % 30}", row, float(row[-1] - 5), 1) for at, row in enumerate(asked)]
    path = tmp_path / "made" / "head.safetensors"
    head = process_reward.train(policy, version(policy), nodes, path, gpu=False)
    assert head.nodes == 300 and head.correlation > 0.3
    kept = process_reward.load(path, version(policy))
    assert (kept.bias, kept.correlation, kept.nodes) == (head.bias, head.correlation, head.nodes)
    values = ProcessReward(policy, kept, gpu=False)(asked)
    high = np.mean([value for value, node in zip(values, nodes, strict=True) if node.value])
    low = np.mean([value for value, node in zip(values, nodes, strict=True) if not node.value])
    assert high > low + 0.3
    with pytest.raises(UsageError, match="holds no process reward model of the policy other"):
        process_reward.load(path, "other")
    path.write_bytes(b"torn")
    with pytest.raises(UsageError, match="cannot be read as safetensors"):
        process_reward.load(path, version(policy))
