"""What a folder is that somebody took for a run: each command makes one kind, and another takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from erpo_ray.documents import missing
from erpo_ray.errors import UsageError
from erpo_ray.rundir.fingerprint import read

Kind = Literal["run", "sweep", "evaluation", "search", "model", "pairs", "logs", "empty", "file", "other"]
"""What `erpo run`, `sweep`, `eval`, `tune` and `export` make, and what else a word may name."""

ROWS = "rows"
"""Folder of a sweep that holds a run directory for each row."""

DRIVEN: tuple[Kind, ...] = ("run", "sweep", "evaluation", "search")
"""What a command works on for long and can be resumed in: it says in `status.json` where it stands."""

_TOLD: dict[Kind, str] = {
    "run": "is a run (erpo run)",
    "sweep": f"is a sweep; its rows are runs, each in {{path}}/{ROWS}/NAME, and its page is {{path}}/sweep.html",
    "evaluation": "is an evaluation (erpo eval); erpo compare takes it",
    "search": "is a search for guidance (erpo tune), which the same erpo tune goes on with",
    "model": "is a model directory; erpo chat, serve, eval and doctor take it",
    "pairs": "holds Parquet files, as erpo export --to trl writes them; trl dpo --dataset_name takes it",
    "logs": "holds Inspect logs (erpo export --to inspect); inspect view --log-dir takes it",
    "empty": "is an empty folder; erpo run CONFIG --run-dir {path} begins a run there",
    "file": "is a file; name the --run-dir of erpo run",
    "other": "is no run directory (no config.yaml and fingerprint.json); name the --run-dir of erpo run",
}


def kind_of(path: Path) -> Kind:
    """What `path`, which exists, is. Of a folder of ours that was cut short at its start: a run."""
    if not path.is_dir():
        return "file"
    names = {entry.name for entry in path.iterdir()}
    if "config.yaml" in names:
        if ROWS in names:
            return "sweep"
        inputs = told.inputs if (told := read(path)) else {}
        return "evaluation" if "policy" in inputs else "search" if "cases" in inputs else "run"
    if "config.json" in names:
        return "model"
    for ending, kind in _ENDINGS.items():
        if any(name.endswith(ending) for name in names):
            return kind
    return "other" if names else "empty"


_ENDINGS: dict[str, Kind] = {".parquet": "pairs", ".eval": "logs"}


def said_of(path: Path, kind: Kind) -> str:
    """One sentence: what it is, and which command takes it."""
    return f"{path}: {_TOLD[kind].format(path=path)}"


def require(path: Path, *wanted: Kind) -> Kind:
    """The kind, which is one of the wanted ones. UsageError that says what it is instead."""
    if not path.exists():
        raise UsageError(missing(path))
    if (kind := kind_of(path)) not in wanted:
        raise UsageError(said_of(path, kind))
    return kind


def require_run(path: Path) -> None:
    """UsageError unless it is the directory of a run."""
    require(path, "run")
