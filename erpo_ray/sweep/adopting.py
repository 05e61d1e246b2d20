"""Sealed stages that a row of a sweep takes over from other run directories, in the sweep or outside it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from erpo_ray.rundir import RunDir
from erpo_ray.rundir.files import temporary
from erpo_ray.rundir.fingerprint import fingerprint
from erpo_ray.rundir.lines import plain_rows
from erpo_ray.rundir.stage import SEAL, intact
from erpo_ray.sweep.rows import Row
from erpo_ray.sweep.share import shared_stages
from erpo_ray.telemetry import Span

ADOPTED = "adopted.json"
"""File of a run directory: the stages that were made outside its sweep, where, and what they took there."""


@dataclass(frozen=True, slots=True)
class Made:
    """A run directory that may hold stages for others, and the row that it was made for; `outside` those of a sweep."""

    row: Row
    place: Path
    outside: bool = False

    def stages(self) -> list[str]:
        """The stages that are sealed. A method's begin with their number, so they come in order."""
        return sorted(seal.parent.name for seal in self.place.glob(f"stages/*/{SEAL}"))

    def stage(self, name: str) -> Path:
        return self.place / "stages" / name


@dataclass(frozen=True, slots=True)
class Adopted:
    """A stage that was made elsewhere: the run directory, and the seconds of each phase there."""

    source: str
    seconds: dict[str, float]


def sealed(made: Iterable[Made]) -> dict[tuple[str, str], Made]:
    """The stages that rows share and one of them has sealed, by name and hash; the first row's where several have."""
    found: dict[tuple[str, str], Made] = {}
    for each in made:
        there = each.stages()
        for name, key in shared_stages(each.row).items():
            if name in there:
                found.setdefault((name, key), each)
    return found


def adopt(run: RunDir, row: Row, made: Sequence[Made]) -> dict[str, Path]:
    """Link sealed stages into the run of a row that has not begun them; which, and from what run directory.

    A row that has not begun takes all from a run outside that has the same settings. Else it takes the first stages
    that it shares with another (`shared_stages`). Files are hard links, since nothing that is sealed is ever written
    again, and copies from another file system. A stage that is not what was sealed is left where it is.
    """
    if twin := _twin(run, row, made):
        whole = _intact(run, twin)
        _note(run, {name: twin for name in whole})
        _link(run, {name: twin.stage(name) for name in whole}, run.path / "stages")
        return dict.fromkeys(whole, twin.place)
    taken: dict[str, Path] = {}
    there = sealed(made)
    for name, key in shared_stages(row).items():
        source, target = there.get((name, key)), run.path / "stages" / name
        if source and not run.files.exists(target) and intact(run.files, source.stage(name)):
            _note(run, {name: source})
            run.files.ensure(target.parent)
            _link(run, {"": source.stage(name)}, target)
            taken[name] = source.place
    return taken


def _twin(run: RunDir, row: Row, made: Sequence[Made]) -> Made | None:
    """Of the runs outside with the settings of the row the one that got furthest; none for a row that has begun."""
    if row.of is not None or run.files.exists(run.path / "stages"):
        return None
    mine = _settings(row)
    equal = [each for each in made if each.outside and _settings(each.row) == mine and _intact(run, each)]
    return max(equal, key=lambda each: len(each.stages()), default=None)


def _settings(row: Row) -> dict[str, str]:
    """What all that a run computes follows from; its name does not matter."""
    return {key: value for key, value in fingerprint(row.config, {}).config.items() if key != "name"}


def _intact(run: RunDir, made: Made) -> list[str]:
    """Its sealed stages up to the first one of the method that is damaged: what comes after was trained on that."""
    found: list[str] = []
    for name in made.stages():
        if not intact(run.files, made.stage(name)):
            break
        found.append(name)
    return found


def _note(run: RunDir, taken: Mapping[str, Made]) -> None:
    """Write down what comes from outside, before it comes: a start that is cut short says so again."""
    told = _adopted(run.path)
    for name, source in taken.items():
        if source.outside:
            spans = plain_rows(source.place / "phases.jsonl", Span)
            told[name] = Adopted(str(source.place), _sums(span for span in spans if span.stage == name))
    if told:
        run.publish(ADOPTED, msgspec.json.format(msgspec.json.encode(told)) + b"\n")


def _sums(spans: Iterable[Span]) -> dict[str, float]:
    found: dict[str, float] = {}
    for span in spans:
        found[span.phase] = round(found.get(span.phase, 0.0) + span.seconds, 3)
    return found


def _link(run: RunDir, sources: Mapping[str, Path], target: Path) -> None:
    """The sources under their names in `target` (one named "" is `target` itself), there whole or not at all."""
    growing = temporary(target)
    if run.files.exists(growing):
        run.files.remove(growing)
    for name, source in sources.items():
        near = source.stat().st_dev == target.parent.stat().st_dev
        shutil.copytree(source, growing / name, copy_function=os.link if near else shutil.copy2)
    run.files.rename(growing, target)
    run.files.syncdir(target.parent)


def seconds(place: Path) -> dict[tuple[str, str], float]:
    """By stage and phase, what the stages took that a run has from outside its sweep."""
    return {(stage, phase): spent for stage, each in _adopted(place).items() for phase, spent in each.seconds.items()}


def _adopted(place: Path) -> dict[str, Adopted]:
    path = place / ADOPTED
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Adopted]) if path.exists() else {}
