"""The configurations that ship with the repository."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from erpo_ray import estimate, settings
from erpo_ray.config import Config
from erpo_ray.methods import METHODS
from erpo_ray.objectives import Objective
from erpo_ray.sweep import rows as sweeps
from erpo_ray.sweep.share import shared_stages

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "configs").glob("compare_*.yaml"))
CONFIGS = sorted({*(ROOT / "configs").glob("*.yaml")} - {*SWEEPS})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_loads_and_is_named_after_its_file(path: Path) -> None:
    assert settings.load(path, (), tuple(METHODS)).name == path.stem


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_holds_differences_only(path: Path) -> None:
    given = dict(_leaves(YAML(typ="safe", pure=True).load(path.read_text())))
    defaults = dict(_leaves(Config().model_dump(mode="json")))
    assert [key for key, value in given.items() if key in defaults and defaults[key] == value] == []


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_shipped_sweep_loads_and_is_named_after_its_file(path: Path) -> None:
    found = sweeps.load(path, (), tuple(METHODS))
    assert found.name == path.stem and [row.name for row in found.rows][0] == "base"


def test_the_comparison_keeps_every_method_within_one_budget_and_shares_the_first_stage() -> None:
    """By the plan, which counts every completion as long as it may be; what rows do spend stands in their table."""
    found = sweeps.load(ROOT / "configs" / "compare_smollm2.yaml", (), tuple(METHODS))
    spent = {row.name: _spent(row.config) for row in found.rows if row.of is None}
    sampled = {name: tokens / found.budget.sampled_tokens for name, (tokens, _) in spent.items()}
    trained = {name: tokens / found.budget.trained_tokens for name, (_, tokens) in spent.items()}
    assert all(share <= 1 for share in (*sampled.values(), *trained.values()))
    assert [name for name, share in sampled.items() if share < 0.4] == ["stage1"]
    # What others begin with stands alone; SoS trains nothing.
    assert [name for name, share in trained.items() if share < 0.71] == ["stage1", "sos"]
    shared = {row.name: shared_stages(row).get("00-imitate") for row in found.rows if row.of is None}
    assert len({shared[name] for name in ("stage1", "erpo", "safer", "saro", "stair", "cdpo", "grpo")}) == 1
    assert len({shared[name] for name in ("stage1", "sft", "derta", "r2d")}) == 4


def _spent(config: Config) -> tuple[int, int]:
    played = METHODS[config.method](config)
    stages: list[Any] = [(f"{number:02d}-{stage.name}", stage.kind) for number, stage in enumerate(played)]
    shape = estimate.Shape(134_515_008, 49_152)
    costs = estimate.costs(config, stages, 1381, 2051, 400, 44.0, shape, 2)
    spent = [cost for cost in costs if cost.kind != "evaluate"]
    return sum(cost.sampled_tokens for cost in spent), sum(cost.trained_tokens for cost in spent)


def test_the_gpu_configs_ask_for_gpus_and_train_as_they_are_called() -> None:
    lora = settings.load(ROOT / "configs" / "lora_1gpu.yaml")
    full = settings.load(ROOT / "configs" / "full_8gpu.yaml")
    assert (lora.cluster.gpu, lora.cluster.train_workers, lora.cluster.rollout_workers) == (True, 1, 1)
    assert lora.imitate.fit.lora_rank == lora.prefer.fit.lora_rank == 64
    assert (full.cluster.gpu, full.cluster.train_workers, full.cluster.rollout_workers) == (True, 8, 8)
    assert full.imitate.fit.lora_rank == full.prefer.fit.lora_rank == 0


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem.endswith("_8b")], ids=lambda path: path.stem)
def test_an_8b_config_trains_a_lora_or_nothing_on_eight_gpus_and_has_a_demo(path: Path) -> None:
    found = settings.load(path)
    demo = settings.load(path.with_name(path.name.replace("_8b", "_demo")))
    assert (found.cluster.gpu, found.cluster.train_workers, found.cluster.rollout_workers) == (True, 8, 8)
    for stage in METHODS[found.method](found):
        if stage.kind == "evolve":
            assert found.sos.mutate == "policy" and demo.sos.mutate == "bank"
            continue
        assert stage.training.lora_rank == 64 and stage.training.batch_size % 8 == 0
    assert (demo.method, demo.prefer.composition) == (found.method, found.prefer.composition)
    assert (demo.prefer.loss, demo.prefer.reference) == (found.prefer.loss, found.prefer.reference)


def test_the_settings_of_dpo_are_the_objectives_they_are_named_after() -> None:
    dpo, rdpo, simpo = (
        settings.load(ROOT / "configs" / f"{name}_demo.yaml").prefer for name in ("dpo", "rdpo", "simpo")
    )
    assert dpo.objective() == Objective(beta=0.1)
    assert rdpo.objective() == replace(dpo.objective(), gamma=rdpo.gamma) and rdpo.gamma > 0
    assert simpo.objective() == Objective(2.0, reference="none", per_token=True, target=simpo.target)
    assert simpo.target > 0


def _leaves(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted key and value of everything in a tree that is not a mapping."""
    if not isinstance(tree, dict):
        return [(prefix, tree)]
    return [leaf for key, value in tree.items() for leaf in _leaves(value, f"{prefix}.{key}" if prefix else key)]
