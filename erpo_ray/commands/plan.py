"""`erpo plan`: what a run would do and need, without booting anything."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from erpo_ray import environment, estimate, preflight
from erpo_ray.commands.common import aligned, read_config
from erpo_ray.config import Config
from erpo_ray.preflight import Ready
from erpo_ray.prompts.mixing import per_source
from erpo_ray.terminal import clean
from erpo_ray.types import Prompt

Phase = tuple[str, Literal["imitate", "prefer"]]

SAMPLE = 200
"""Prompts whose length is measured."""


def plan(path: Path, overrides: Sequence[str], as_json: bool) -> int:
    """Check everything that `run` checks, and print the plan."""
    config = read_config(path, overrides)
    found = facts(config, preflight.check(config))
    print(json.dumps(found, indent=2) if as_json else clean(text(found)))
    return 0


def facts(config: Config, ready: Ready) -> dict[str, Any]:
    """The plan as plain values. Times are None where a GPU would run it: no rate was measured there."""
    from erpo_ray.methods import METHODS

    renderer = preflight.renderer(ready.model_dir)
    train, evaluate = ready.mix.train, per_source(ready.mix.evaluate, config.evaluate.per_source)
    labels = Counter(prompt.label for prompt in train)
    mean = fmean(len(renderer.render(prompt.text)) for prompt in train[:SAMPLE])
    shape = estimate.shape(ready.model_dir)
    stages: list[Phase] = [
        (f"{number:02d}-{stage.name}", stage.kind) for number, stage in enumerate(METHODS[config.method](config))
    ]
    costs = estimate.costs(
        config, stages, labels["harmful"], labels["benign"], len(evaluate), mean, shape, os.cpu_count() or 1
    )
    on_cpu = not (environment.gpu_present() if config.cluster.gpu is None else config.cluster.gpu)
    shown = [next(prompt for prompt in train if prompt.label == label) for label in ("harmful", "benign")]
    return {
        "method": config.method,
        "model": {"path": str(ready.model_dir), "parameters": shape.parameters},
        "backend": config.backend,
        "workers": {name: getattr(config.cluster, f"{name}_workers") for name in ("rollout", "judge", "train")},
        "prompts": {"train": _counts(train), "evaluate": _counts(evaluate)},
        "left_out": len(ready.mix.left_out),
        "mean_prompt_tokens": round(mean, 1),
        "rendered": [{"id": p.id, "label": p.label, "text": renderer.show(renderer.render(p.text))} for p in shown],
        "phases": [asdict(cost) if on_cpu else asdict(cost) | {"seconds": None} for cost in costs],
        "seconds": round(sum(cost.seconds for cost in costs)) if on_cpu else None,
        "memory_gib": round(estimate.memory_gib(config, shape, mean), 1),
        "disk_gib": round(ready.disk_bytes / estimate.GIB, 1),
    }


def text(found: dict[str, Any]) -> str:
    """The plan for a terminal."""
    model, workers = found["model"], found["workers"]
    lines = [
        f"method {found['method']} on {model['path']} ({model['parameters'] / 1e6:.0f} M parameters), "
        f"backend {found['backend']}: {', '.join(f'{count} {name}' for name, count in workers.items())} workers",
        "",
        _categories(found["prompts"]),
        f"left out as copies: {found['left_out']}; mean prompt {found['mean_prompt_tokens']} tokens",
        "",
        aligned([("phase (all at most)", "completions", "tokens", "rows", "tokens trained", "time"), *_phases(found)]),
        f"memory about {found['memory_gib']} GiB, disk {found['disk_gib']} GiB",
    ]
    for shown in found["rendered"]:
        lines += ["", f"{shown['label']} prompt {shown['id']} as the model sees it:", shown["text"]]
    return "\n".join(lines)


def _counts(prompts: Sequence[Prompt]) -> dict[str, dict[str, int]]:
    """Prompts by category, then label."""
    counts: dict[str, Counter[str]] = {}
    for prompt in prompts:
        counts.setdefault(prompt.category or "(none)", Counter())[prompt.label] += 1
    return {category: dict(counts[category]) for category in sorted(counts)}


def _categories(prompts: dict[str, dict[str, dict[str, int]]]) -> str:
    columns = [(role, label) for role in ("train", "evaluate") for label in ("harmful", "benign", "unknown")]
    columns = [(r, lab) for r, lab in columns if any(lab in found for found in prompts[r].values())]
    rows = [("prompts", *(f"{role} {label}" for role, label in columns))]
    for category in sorted({*prompts["train"], *prompts["evaluate"]}):
        rows.append((category, *(str(prompts[role].get(category, {}).get(label, 0)) for role, label in columns)))
    totals = (str(sum(found.get(label, 0) for found in prompts[role].values())) for role, label in columns)
    return aligned([*rows, ("total", *totals)])


def _phases(found: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = [
        (
            phase["name"],
            str(phase["completions"]),
            str(phase["sampled_tokens"]),
            str(phase["rows"]),
            str(phase["trained_tokens"]),
            _time(phase["seconds"]),
        )
        for phase in found["phases"]
    ]
    return [*rows, ("total", "", "", "", "", _time(found["seconds"]))]


def _time(seconds: float | None) -> str:
    return "not measured" if seconds is None else f"{seconds / 60:.1f} min"
