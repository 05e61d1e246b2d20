"""`erpo plan`: what a run would do and need, without booting anything."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from erpo_ray import documents, environment, estimate, preflight, scale
from erpo_ray.commands.common import read_config
from erpo_ray.config import Config
from erpo_ray.config.judges import has_model
from erpo_ray.errors import UsageError
from erpo_ray.forecast import forecast
from erpo_ray.placement import Infeasible, elastic, needs, place
from erpo_ray.preflight import Ready
from erpo_ray.prompts.mixing import per_source
from erpo_ray.scale import Machines
from erpo_ray.terminal import aligned, clean
from erpo_ray.types import Prompt


def plan(path: Path, overrides: Sequence[str], machines: str, as_json: bool) -> int:
    """Check all that `run` or `sweep` checks, and print the plan; with `machines` also what a run takes on these."""
    if "rows" in documents.read(path).data:
        return _sweep(path, overrides, machines, as_json)
    config = read_config(path, overrides)
    fleet = scale.machines(machines) if machines else []
    found = facts(config, preflight.check(config), fleet)
    print(json.dumps(found, indent=2) if as_json else clean(text(found)))
    return 0


def _sweep(path: Path, overrides: Sequence[str], machines: str, as_json: bool) -> int:
    """The plan of each row beside the budget of all."""
    from erpo_ray.methods import METHODS
    from erpo_ray.sweep import budget, rows

    if machines:
        raise UsageError(
            "--nodes: is told of one run, not of a sweep; give `erpo plan` a configuration with what its row sets"
        )
    found = rows.load(path, overrides, tuple(METHODS))
    plans = budget.plans(found, preflight.check(found.common))
    told = {"budget": found.budget.model_dump(), "rows": {name: asdict(row) for name, row in plans.items()}}
    print(json.dumps(told, indent=2) if as_json else clean(budget.text(found, plans)))
    return 0


def facts(config: Config, ready: Ready, fleet: Sequence[Machines] = ()) -> dict[str, Any]:
    """The plan as plain values. Times are None where a GPU would run it: no rate was measured there.

    With a fleet, `machines` holds what the run takes on it on paper. UsageError when its workers do not fit there.
    """
    renderer = preflight.renderer(ready.model_dir)
    train, evaluate = ready.mix.train, per_source(ready.mix.evaluate, config.evaluate.per_source)
    found = forecast(config, ready)
    costs, mean, shape, rates = found.costs, found.prompt_tokens, found.shape, found.rates
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
        "memory_gib": round(estimate.memory_gib(config, shape, mean, rates), 1),
        "disk_gib": round(ready.disk_bytes / estimate.GIB, 1),
        "machines": _on(fleet, config, scale.dims(ready.model_dir, shape.parameters), costs, mean) if fleet else None,
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
    if found["machines"]:
        lines += ["", *_machines(found["machines"])]
    for shown in found["rendered"]:
        lines += ["", f"{shown['label']} prompt {shown['id']} as the model sees it:", shown["text"]]
    return "\n".join(lines)


def _on(
    fleet: Sequence[Machines], config: Config, dims: scale.Dims, costs: Sequence[estimate.Cost], prompt_tokens: float
) -> dict[str, Any]:
    judges = config.cluster.judge_workers if has_model(config.judge) else 0
    nodes = [node for node, _ in scale.nodes(fleet).values()]
    try:
        config = config.model_copy(update={"cluster": elastic(nodes, config.cluster, judges, config.batches)})
        placed = place(nodes, needs(config.cluster, judges))
    except Infeasible as error:
        raise UsageError(f"--nodes: {error}; give more, or ask for fewer workers") from error
    paper = scale.on_paper(config, dims, costs, prompt_tokens, fleet, placed)
    return {
        "placed": {role: dict(where) for role, where in placed.items()},
        "gpu_gib": {
            role: {name: round(value, 1) for name, value in asdict(memory).items()}
            | {"total": round(memory.total, 1), "room": round(paper.room_gib[role], 1)}
            for role, memory in paper.memory.items()
        },
        "phases": {cost.name: round(took) for cost, took in zip(costs, paper.phases, strict=True)},
        "seconds": round(paper.seconds),
        "money": round(paper.money, 2),
        "storage_gib": round(paper.storage_gib, 1),
    }


def _machines(found: dict[str, Any]) -> list[str]:
    where = [
        (role, ", ".join(f"{count} on {name}" for name, count in places.items()))
        for role, places in found["placed"].items()
    ]
    names = ("weights", "kv", "optimiser", "activations", "total", "room")
    memory = [(role, *(str(gib[name]) for name in names)) for role, gib in found["gpu_gib"].items()]
    tight = [role for role, gib in found["gpu_gib"].items() if gib["total"] > gib["room"]]
    times = [(name, f"{took / 60:.1f} min") for name, took in found["phases"].items()]
    return [
        "on paper, from data sheets (docs/scale.md); none of it was measured:",
        *(f"{role:<8} {places}" for role, places in where),
        "",
        aligned([("GiB of a GPU", *names), *memory]),
        *(f"{role} does not fit its GPU" for role in tight),
        "",
        aligned([("phase", "time"), *times, ("total with start", f"{found['seconds'] / 60:.1f} min")]),
        f"money {found['money']:.2f}, storage {found['storage_gib']} GiB",
    ]


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
