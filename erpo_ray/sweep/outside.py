"""Run directories outside the rows of a sweep, whose sealed stages its rows may take over instead of training again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from erpo_ray import settings
from erpo_ray.errors import UsageError
from erpo_ray.rundir.fingerprint import Fingerprint, read
from erpo_ray.rundir.kind import ROWS
from erpo_ray.sweep.adopting import Made
from erpo_ray.sweep.rows import Row

BEFORE = "before"
"""Folder of a sweep, with the run directories of rows that had other settings before."""


def outside(folders: Sequence[Path], inputs: Mapping[str, str]) -> tuple[list[Made], list[str]]:
    """The runs in `folders`, which are run directories, and sweeps with all their rows.

    Only those with the same `inputs` (prompts, rules, chat template) can be used; the others come back as a line each.
    UsageError for a folder that holds no run directory.
    """
    found: list[Made] = []
    unfit: list[str] = []
    for place in (place for folder in folders for place in _runs(folder)):
        told = begun_with(place)
        if told is None:
            unfit.append(f"{place}: nothing is taken from it, its fingerprint.json is damaged")
        elif told.inputs != dict(inputs):
            unfit.append(f"{place}: nothing is taken from it, it was made with other prompts, rules or chat template")
        else:
            found.append(_made(place))
    return found, unfit


def aside(out: Path) -> list[Made]:
    """What the rows of the sweep in `out` had made under other settings."""
    return [_made(place) for place in _in(out / BEFORE)]


def _made(place: Path) -> Made:
    return Made(Row(place.name, settings.load(place / "config.yaml")), place, outside=True)


def _runs(folder: Path) -> list[Path]:
    found = [folder] if _is_run(folder) else [*_in(folder / ROWS), *_in(folder / BEFORE)]
    if not found:
        raise UsageError(
            f"--adopt {folder}: holds no run directory; give the --run-dir of an `erpo run` or an `erpo sweep`"
        )
    return found


def _in(folder: Path) -> Iterator[Path]:
    return (place for place in sorted(folder.glob("*")) if _is_run(place))


def _is_run(place: Path) -> bool:
    return (place / "stages").is_dir() and (place / "fingerprint.json").exists()


def begun_with(place: Path) -> Fingerprint | None:
    """The fingerprint of a run directory; None where it is damaged, or a first start was cut short before it."""
    told = read(place)
    return told if told and told.intact() else None
