"""Whole stages of training on the GPU: what is learned, and what the memory settings give back."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from erpo_ray.objectives import Objective, Training
from erpo_ray.train import models
from erpo_ray.train.dpo import prefer
from erpo_ray.train.sft import imitate
from erpo_ray.types import Example, Pair

PLAIN = Training(learning_rate=2e-5, epochs=4, batch_size=8, micro_batch_size=4, max_length=512)


@pytest.fixture(scope="module")
def texts(smol: Path) -> list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Prompt, a short completion and a long one, as ids."""
    tokenizer = AutoTokenizer.from_pretrained(smol)

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text)["input_ids"])

    end = (tokenizer.eos_token_id,)
    return [(ids(f"Count to {n}."), ids(f"1 to {n}.") + end, ids("One. " * n) + end) for n in range(10, 26)]


def test_preferring_starts_at_ln_2_and_widens_the_margin(smol: Path, texts: list, tmp_path: Path) -> None:
    rows = [
        Pair(str(at), str(at), prompt, (), short, long, 1.0, "length", "")
        for at, (prompt, short, long) in enumerate(texts)
    ]
    steps: list[dict[str, float]] = []
    found = prefer(
        smol, smol, rows, Objective(beta=0.1), PLAIN, tmp_path / "out", None, lambda *step: steps.append(step[2])
    )
    assert steps[0]["sigmoid"] == pytest.approx(math.log(2), abs=1e-2)
    assert found["margin"] > 0.1 and found["sigmoid"] < 0.65
    assert (tmp_path / "out/model.safetensors").is_file()


def test_imitating_learns(smol: Path, texts: list, tmp_path: Path) -> None:
    rows = [Example(str(at), str(at), "x", prompt, short, "") for at, (prompt, short, _) in enumerate(texts)]
    found = imitate(smol, rows, PLAIN, tmp_path / "out")
    assert found["loss_last"] < found["loss_first"]


def peak(smol: Path, texts: list, out: Path, training: Training) -> int:
    """Bytes that training on all rows in one pass takes at most."""
    rows = [Example(str(at), str(at), "x", prompt, long, "") for at, (prompt, _, long) in enumerate(texts)]
    models.release()
    torch.cuda.reset_peak_memory_stats()
    imitate(smol, rows, replace(training, epochs=1, batch_size=16, micro_batch_size=16), out)
    return torch.cuda.max_memory_allocated()


def test_recomputed_activations_take_less_memory(smol: Path, texts: list, tmp_path: Path) -> None:
    plain = peak(smol, texts, tmp_path / "plain", PLAIN)
    assert peak(smol, texts, tmp_path / "less", replace(PLAIN, gradient_checkpointing=True)) < 0.95 * plain


def test_what_training_took_is_given_back(smol: Path, texts: list, tmp_path: Path) -> None:
    models.release()
    before = torch.cuda.memory_reserved()
    peak(smol, texts, tmp_path / "out", PLAIN)
    models.release()
    assert torch.cuda.memory_reserved() - before < 2**28
