"""A sweep whose file was edited: rows that changed are set aside, those that did not are kept, and which is told."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from erpo_ray.rundir import RunDir
from erpo_ray.rundir.fingerprint import differences, fingerprint
from erpo_ray.rundir.kind import ROWS
from erpo_ray.sweep.outside import BEFORE, begun_with
from erpo_ray.sweep.rows import Sweep


def settle(
    record: RunDir, out: Path, sweep: Sweep, inputs: Mapping[str, str], done: Collection[str]
) -> tuple[set[str], list[str]]:
    """Put the rows in place as the file has them now; which of `done` still are, and what there is to tell.

    A row whose settings differ from those it was begun with goes to `before/NAME-HASH` as it is, and so does what
    measures it; a row that has the settings of one that went there comes back. A measured row goes first, so that a
    start that is cut short finds the rest still to be done.
    """
    rows, said = out / ROWS, list[str]()
    known = {name for name in done if (rows / name).is_dir()}
    why = _changes(sweep, rows, known)
    for row in reversed(sweep.rows):
        if row.name in why:
            aside = _free(out / BEFORE, rows / row.name)
            _move(record, rows / row.name, aside)
            said.append(f"{row.name}: {why[row.name]}; what it had made is in {aside}")
    for row in sweep.rows:
        earlier = out / BEFORE / f"{row.name}-{fingerprint(row.config, inputs).sha256[:8]}"
        if row.of is None and not (rows / row.name).exists() and earlier.is_dir():
            _move(record, earlier, rows / row.name)
            said.append(f"{row.name}: brought back from {earlier}")
    kept = {name for name in done if (rows / name).is_dir()}
    names = [row.name for row in sweep.rows]
    if kept:
        said.append(f"kept: {', '.join(name for name in names if name in kept)}")
        said += [f"to play: {', '.join(left)}"] if (left := [name for name in names if name not in kept]) else []
    gone = sorted(place.name for place in rows.glob("*") if place.is_dir() and place.name not in names)
    if gone:
        said.append(f"in {rows}, but no rows of the file any more: {', '.join(gone)}")
    return kept, said


def _changes(sweep: Sweep, rows: Path, done: Collection[str]) -> dict[str, str]:
    """Of each row that is there and no longer what the file has: why."""
    why: dict[str, str] = {}
    for row in sweep.rows:
        told = begun_with(rows / row.name)
        if told is None:
            continue
        now = fingerprint(row.config, told.inputs).config
        # What is measured is the policy of another row: its place is written there when the row is played.
        apart = {"model.path"} if row.of else set[str]()
        changed = differences(
            {key: value for key, value in told.config.items() if key not in apart},
            {key: value for key, value in now.items() if key not in apart},
        )
        if changed:
            why[row.name] = f"its settings changed ({'; '.join(changed)})"
        elif row.of and (row.of in why or row.of not in done):
            why[row.name] = f"it measured an earlier policy of the row {row.of}"
    return why


def _free(folder: Path, row: Path) -> Path:
    """A place in the folder for what a row has made, that nothing has yet."""
    told = begun_with(row)
    plain = folder / f"{row.name}-{told.sha256[:8] if told else 'begun'}"
    number, place = 2, plain
    while place.exists():
        place, number = plain.with_name(f"{plain.name}-{number}"), number + 1
    return place


def _move(record: RunDir, place: Path, to: Path) -> None:
    record.files.ensure(to.parent)
    record.files.rename(place, to)
    record.files.syncdir(to.parent)
    record.files.syncdir(place.parent)
