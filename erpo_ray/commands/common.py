"""What several commands need: reading a configuration, finding the model that a word on the command line means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from erpo_ray import settings
from erpo_ray.config import Config
from erpo_ray.documents import require_file
from erpo_ray.errors import UsageError
from erpo_ray.prompts import seeds
from erpo_ray.rundir.kind import kind_of, require_run, said_of
from erpo_ray.rundir.lines import plain_rows


def read_config(path: Path, overrides: Sequence[str]) -> Config:
    from erpo_ray.methods import METHODS

    return settings.load(path, overrides, tuple(METHODS))


def require_prompts(files: Iterable[Path]) -> None:
    """UsageError unless each is a file that can be read, or an embedded set: no glob and no data set of the hub."""
    for path in files:
        if str(path) not in seeds.NAMES:
            require_file(path, f"name its files, for example {path}/NAME.jsonl")


def run_config(run: Path) -> Config:
    """The configuration that a run directory was started with."""
    require_run(run)
    return settings.load(run / "config.yaml")


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

    if run := run_of(word):
        return policy_of(run)
    path = Path(word).expanduser()
    if path.exists() and (kind := kind_of(path)) in ("pairs", "logs", "empty", "file"):
        raise UsageError(said_of(path, kind))
    return materialise(word)


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
