"""What several commands need: reading a configuration, finding the model that a word on the command line means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erpo_ray import settings
from erpo_ray.config import Config
from erpo_ray.documents import missing
from erpo_ray.errors import UsageError
from erpo_ray.rundir.lines import plain_rows


def read_config(path: Path, overrides: Sequence[str]) -> Config:
    from erpo_ray.methods import METHODS

    return settings.load(path, overrides, tuple(METHODS))


def run_config(run: Path) -> Config:
    """The configuration that a run directory was started with."""
    require_run(run)
    return settings.load(run / "config.yaml")


def require_run(run: Path) -> None:
    if not run.exists():
        raise UsageError(missing(run))
    if not (run / "config.yaml").exists():
        raise UsageError(f"{run}: is no run directory (no config.yaml); give the --run-dir of `erpo run`")


def policy_of(run: Path) -> Path:
    """The last accepted policy of a run."""
    require_run(run)
    policy = run / "policy"
    if not policy.exists():
        raise UsageError(f"{run}: has no policy yet; wait for its first stage (erpo status {run})")
    return policy.resolve()


def model_of(word: str) -> Path:
    """The model directory that is meant: a run's policy, a directory, the embedded model or a hub id."""
    from erpo_ray.engines.models import materialise

    run = run_of(word)
    return policy_of(run) if run else materialise(word)


def run_of(word: str) -> Path | None:
    """The run directory that is meant, None when the word names a model."""
    path = Path(word).expanduser()
    return path if (path / "config.yaml").exists() else None


def metrics(run: Path) -> list[dict[str, Any]]:
    """Whole lines of metrics.jsonl, oldest first."""
    return list(plain_rows(run / "metrics.jsonl", dict[str, Any]))


MEASURES = ("harmful_refused", "benign_refused", "utility", "tokens_harmful", "tokens_benign", "well_formed")


def measures(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Cells of a table of evaluated policies: stage, then each measure; `-` where it was not measured."""
    return [
        (str(row.get("stage", "")), *(_cell(name, row.get(f"eval/{name}")) for name in MEASURES))
        for row in rows
        if any(f"eval/{name}" in row for name in MEASURES)
    ]


def _cell(name: str, value: Any) -> str:
    if not isinstance(value, int | float):
        return "-"
    if name == "utility":
        return f"{value:+.2f}"
    return f"{value:.0f}" if name.startswith("tokens") else f"{value:.1%}"
