"""Memory, time and money on paper, against figures worked out by hand, and the page that shows them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from erpo_ray import scale
from erpo_ray.commands import plan
from erpo_ray.config import Config
from erpo_ray.config.training import Fit
from erpo_ray.errors import UsageError
from erpo_ray.estimate import Cost
from erpo_ray.placement import needs, place
from erpo_ray.scale import GPUS, Dims, Gpu, Memory

ROOT = Path(__file__).parents[2]
MODEL = Dims(8e9, 32, 4096, 14336, 8, 128, 128256)
"""8 billion parameters with the matrices of Llama 3.1."""
GIB = 2**30


def test_a_token_in_the_cache_of_an_8b_model_takes_128_kib() -> None:
    assert MODEL.kv_bytes == 2 * 2 * 32 * 8 * 128 == 128 * 1024


def test_an_engine_holds_weights_and_cache() -> None:
    found = scale.rollout_memory(MODEL, sequences=128, length=1000)
    # 16e9 bytes; 128,000 tokens of 128 KiB.
    assert (found.weights, found.kv) == (16e9 / GIB, 128_000 / 8192)
    assert found.total == found.weights + 15.625 + scale.RUNTIME_GIB
    cut = scale.rollout_memory(MODEL, 128, 1000, gpus=4)
    assert (cut.weights, cut.kv) == (found.weights / 4, 15.625 / 4)


def test_an_engine_is_cut_over_as_few_gpus_as_hold_it() -> None:
    # 14.9 + 15.6 + 2 = 32.5 GiB; an L40S offers .85 of 44.7, an L4 .85 of 22.4: 17.3 on two.
    assert scale.engine_gpus(MODEL, GPUS["L40S"], 128, 1000) == 1
    assert scale.engine_gpus(MODEL, GPUS["L4"], 128, 1000) == 2


def test_a_trainer_of_all_weights_takes_16_bytes_a_parameter_and_its_activations() -> None:
    found = scale.train_memory(MODEL, Fit(micro_batch_size=1), length=1000, sides=1)
    assert found.weights + found.optimiser == pytest.approx(16 * 8e9 / GIB)
    # 34 bytes a token, hidden unit and layer; logits with gradient in float32.
    assert found.activations == pytest.approx((34 * 1000 * 4096 * 32 + 8 * 1000 * 128256) / GIB)
    pairs = scale.train_memory(MODEL, Fit(micro_batch_size=1), 1000, sides=2)
    assert pairs.activations == pytest.approx(2 * found.activations)
    thrift = scale.train_memory(MODEL, Fit(micro_batch_size=1, gradient_checkpointing=True), 1000, sides=1)
    # What enters each layer is kept in bf16, and one layer is worked out at a time.
    assert thrift.activations == pytest.approx((1000 * 4096 * (2 * 32 + 34) + 8 * 1000 * 128256) / GIB)
    cut = scale.train_memory(MODEL, Fit(micro_batch_size=1), 1000, sides=1, shards=8)
    assert (cut.optimiser, cut.activations) == (found.optimiser / 8, found.activations)


def test_a_lora_has_moments_of_its_adapters_alone() -> None:
    fit = Fit(lora_rank=64)
    # A layer: q and o 2 * 4096, k and v 4096 + 1024, the three of the MLP 4096 + 14336.
    assert MODEL.adapters(fit) == 64 * 32 * (2 * 8192 + 2 * 5120 + 3 * 18432) == 167_772_160
    assert scale.train_memory(MODEL, fit, 1000, sides=1).optimiser == pytest.approx(12 * 167_772_160 / GIB)


def test_sampling_is_bound_by_memory_then_by_arithmetic_and_never_faster_than_a_step() -> None:
    gpu = Gpu("g", 80, flops=1e15, bandwidth=2e12)
    # 16e9 bytes of weights at 1.2e12 a second for one sequence, whose own 1000 tokens hardly count.
    assert scale.sampling_rate(MODEL, gpu, 1, 1000) == pytest.approx(1.2e12 / (16e9 + 1000 * 131072))
    # 512 sequences of one token: 2 * 8e9 * 512 operations at 5e14 take 16.4 ms, reading 13.4 ms.
    assert scale.sampling_rate(MODEL, gpu, 512, 1) == pytest.approx(5e14 / (2 * 8e9))
    assert scale.sampling_rate(MODEL, gpu, 1, 1000, gpus=2) == pytest.approx(
        2 * scale.sampling_rate(MODEL, gpu, 1, 1000)
    )
    small = Dims(1e8, 12, 512, 2048, 8, 64, 50_000)
    assert scale.sampling_rate(small, gpu, 100, 100) == 100 / scale.STEP_S


def test_training_costs_six_operations_a_parameter_and_four_where_weights_are_frozen() -> None:
    gpu = Gpu("g", 80, flops=1e15, bandwidth=2e12)
    assert scale.training_rate(MODEL, gpu) == pytest.approx(0.35e15 / 48e9)
    assert scale.training_rate(MODEL, gpu, frozen=True) == pytest.approx(1.5 * scale.training_rate(MODEL, gpu))


def test_a_new_policy_is_written_once_and_read_by_every_engine() -> None:
    assert scale.sync_seconds(MODEL, engines=8) == 9 * 16e9 / 2e9


def test_a_run_directory_keeps_a_policy_a_stage_and_its_ledgers() -> None:
    costs = [Cost("base", "evaluate", 10, 1000, 0, 0, 0), Cost("00", "imitate", 10, 500, 5, 50, 0)]
    assert scale.storage_bytes(MODEL, costs) == 2 * 16e9 + 14 * 1500


def test_a_phase_adds_sampling_training_and_for_a_stage_its_new_policy() -> None:
    evaluated = Cost("base", "evaluate", 10, 1000, 0, 0, 0)
    assert scale.seconds(evaluated, MODEL, 100.0, 1.0, engines=3) == 10.0
    stage = Cost("01", "prefer", 10, 1000, 5, 500, 0)
    assert scale.seconds(stage, MODEL, 100.0, 50.0, engines=3) == 10.0 + 10.0 + 4 * 8.0


def test_a_run_on_paper_pays_for_all_machines_as_long_as_it_takes() -> None:
    config = Config.model_validate({"cluster": {"rollout_workers": 2, "train_workers": 2, "in_flight": 1}})
    fleet = scale.machines("1x2xH100@3.00")
    placed = place([node for node, _ in scale.nodes(fleet).values()], needs(config.cluster, 0))
    costs = [Cost("01", "prefer", 10, 1_000_000, 5, 1_000_000, 0)]
    found = scale.on_paper(config, MODEL, costs, 40.0, fleet, placed)
    # 160 tokens at most behind 40: 120 on average.
    sampled = 2 * scale.sampling_rate(MODEL, GPUS["H100"], 1, 120)
    trained = 2 * scale.training_rate(MODEL, GPUS["H100"])
    assert found.phases == (pytest.approx(1e6 / sampled + 1e6 / trained + 24.0),)
    assert found.money == pytest.approx(2 * 3.00 * (180 + found.phases[0]) / 3600)
    assert found.memory["rollout"] == scale.rollout_memory(MODEL, 1, 200)
    assert found.memory["train"] == scale.train_memory(MODEL, config.imitate.fit, 200, sides=1)
    assert found.room_gib["train"] == 80e9 / GIB


def test_the_plan_takes_as_many_elastic_trainers_as_have_room() -> None:
    cluster = {"rollout_workers": 2, "train_workers": 8, "train_workers_min": 2, "share_gpu": False}
    costs = [Cost("01-prefer", "prefer", 10, 1_000_000, 5, 1_000_000, 0)]

    def trainers(fleet: str) -> int:
        placed = plan._on(scale.machines(fleet), Config.model_validate({"cluster": cluster}), MODEL, costs, 40.0)
        return sum(placed["placed"]["train"].values())

    assert [trainers(fleet) for fleet in ("1x4xH100@3", "1x7xH100@3", "2x8xH100@3")] == [2, 4, 8]
    with pytest.raises(UsageError, match=r"--nodes: cluster.train_workers=2: room for 1"):
        trainers("1x3xH100@3")


def test_the_plan_tells_who_runs_where_and_what_does_not_fit() -> None:
    config = Config.model_validate({"cluster": {"rollout_workers": 2, "share_gpu": False}})
    costs = [Cost("01-prefer", "prefer", 10, 1_000_000, 5, 1_000_000, 0)]
    found = plan._on(scale.machines("1x2xL4@1,1x1xH100@3"), config, MODEL, costs, 40.0)
    assert found["placed"] == {
        "rollout": {"node-1 (2 L4)": 2},
        "train": {"node-2 (1 H100)": 1},
        "judge": {"node-1 (2 L4)": 1},
    }
    lines = plan._machines(found)
    assert "rollout  2 on node-1 (2 L4)" in lines
    # 16 bytes a parameter are 119 GiB, an H100 has 74.5.
    assert "train does not fit its GPU" in lines and found["gpu_gib"]["train"]["optimiser"] == 89.4
    with pytest.raises(UsageError, match=r"--nodes: cluster.rollout_workers=2: room for 1 on the nodes .*; give more"):
        plan._on(scale.machines("1x1xH100"), config, MODEL, costs, 40.0)


def test_machines_are_read_with_role_and_price() -> None:
    found = scale.machines("2x8xH100@2.50, rollout:3x1xL4")
    assert [(m.count, m.gpus, m.gpu.name, m.price, m.role) for m in found] == [
        (2, 8, "H100", 2.5, ""),
        (3, 1, "L4", 0.0, "rollout"),
    ]
    named = scale.nodes(found)
    assert list(named) == ["node-1 (8 H100)", "node-2 (8 H100)", *(f"rollout-{i} (1 L4)" for i in (3, 4, 5))]
    assert named["rollout-3 (1 L4)"][0].labels == {"erpo-role": "rollout"}


@pytest.mark.parametrize("text", ["8xH100", "0x8xH100", "1x8xV100@2", "1x8xH100@", "x", "1x8xH100@1,,1x8xH100"])
def test_what_names_no_machines_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--nodes: found .*; write MACHINESxGPUSxKIND@PRICE"):
        scale.machines(text)


def test_dimensions_are_read_from_the_models_own_file(tmp_path: Path) -> None:
    given = {"num_attention_heads": 32, "num_hidden_layers": 32, "hidden_size": 4096, "vocab_size": 128256}
    (tmp_path / "config.json").write_text(json.dumps(given | {"num_key_value_heads": 8, "intermediate_size": 14336}))
    assert scale.dims(tmp_path, 8_000_000_000) == MODEL
    (tmp_path / "config.json").write_text(json.dumps(given))
    assert scale.dims(tmp_path, 7) == Dims(7, 32, 4096, 16384, 32, 128, 128256)


def test_a_memory_is_the_sum_of_its_parts() -> None:
    assert Memory(1.0, 2.0, 3.0, 4.0).total == 10.0 + scale.RUNTIME_GIB


def test_the_page_shows_what_the_command_prints() -> None:
    shown = subprocess.run(
        [sys.executable, "bench/scale.py"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    page = (ROOT / "docs" / "scale.md").read_text()
    assert shown.stdout.count("| GPUs |") == 2
    assert shown.stdout.strip() in page
