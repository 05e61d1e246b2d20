"""What the GPU bench reckons with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from erpo_ray.train.tree import plant

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "bench"))

import flops  # noqa: E402
import gpu  # noqa: E402

PROMPT = tuple(range(10, 20))


def test_a_token_sees_its_path_and_itself() -> None:
    # 10 x 11 / 2 in the prompt; a completion of 2 sees 11 and 12 tokens, one of 1 sees 11.
    assert flops.seen(plant([(PROMPT, (1, 2)), (PROMPT, (3,))])) == 55 + 23 + 11


def test_a_step_counts_shared_tokens_once_and_projects_completions_only() -> None:
    tree = plant([(PROMPT, (1, 2)), (PROMPT, (3,)), (PROMPT, (1, 2))])
    shape = flops.Shape(body=100, head=50, layers=2, width=8)
    assert flops.step([tree], shape) == 6 * (100 * 13 + 50 * 3) + 12 * 2 * 8 * 89 == 25788
    assert flops.step([tree, tree], shape) == 2 * 25788


@pytest.mark.parametrize(
    ("device", "tera"),
    [("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA A100-SXM4-80GB", 312), ("Something", None)],
)
def test_what_a_device_can_do_is_known_by_its_name(device: str, tera: int | None) -> None:
    assert flops.peak(device) == (tera and tera * 10**12)


def test_rows_have_the_length_that_was_asked_for_over_shared_prompts() -> None:
    rows = gpu.pairs(2, 100, 999)
    assert len(rows) == 8 and len({row.prompt_ids for row in rows}) == 2
    assert {len(row.prompt_ids + side) for row in rows for side in (row.chosen_ids, row.rejected_ids)} == {100}
    tree = plant([(row.prompt_ids, side) for row in rows for side in (row.chosen_ids, row.rejected_ids)])
    assert tree.tokens == 2 * 25 + 16 * 75
