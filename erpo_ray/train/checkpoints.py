"""Resumable trainer checkpoints: a marker file, written last, says what one belongs to and what its files hold.

A checkpoint whose files are not those of its marker is never chosen: the one before it is, and two are kept for that.
Pure: nothing here loads torch.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from erpo_ray.rundir.stage import Sum
from erpo_ray.train.weights import READERS, sha256
from erpo_ray.types import UNREADABLE, decode, encode

MARKER = "COMPLETE.json"
KEPT = 2


@dataclass(frozen=True, slots=True)
class Marker:
    """What a checkpoint belongs to, and its files by their path in it."""

    fingerprint: str
    files: dict[str, Sum]


def seal(checkpoint: Path, fingerprint: str) -> None:
    """Mark a fully written `checkpoint-N` as whole, then remove all beside it but the last `KEPT - 1` before it.

    The files reach the disk before the marker does, and the marker appears under its name in one step.
    """
    marker = checkpoint / MARKER
    marker.unlink(missing_ok=True)
    names = sorted(str(file.relative_to(checkpoint)) for file in checkpoint.rglob("*") if file.is_file())
    for name in names:
        _sync(checkpoint / name)
    with ThreadPoolExecutor(READERS) as pool:
        files = dict(zip(names, pool.map(lambda name: _sum(checkpoint / name), names), strict=True))
    draft = checkpoint / f"{MARKER}.draft"
    draft.write_bytes(encode(Marker(fingerprint, files)))
    _sync(draft)
    draft.rename(marker)
    _sync(checkpoint)
    _sync(checkpoint.parent)
    before = [
        other for other in _all(checkpoint.parent) if _step(other) < _step(checkpoint) and _of(other, fingerprint)
    ]
    for other in {*_all(checkpoint.parent)} - {checkpoint, *before[: KEPT - 1]}:
        shutil.rmtree(other)


def latest(work: Path | None, fingerprint: str, note: Callable[[str], None] = lambda line: None) -> Path | None:
    """The furthest checkpoint in `work` that carries `fingerprint` and whose files are those of its marker, or None.

    `note` hears of each that is passed over, and why; not of one that belongs to other rows or settings.
    """
    for checkpoint in _all(work) if work else ():
        marker = _marker(checkpoint)
        if marker and marker.fingerprint != fingerprint:
            continue
        if not (why := _damage(checkpoint, marker)):
            return checkpoint
        note(f"{checkpoint} is passed over: {why}")
    return None


def _all(work: Path) -> list[Path]:
    """The furthest first."""
    found = [path for path in work.glob("checkpoint-*") if path.is_dir() and path.name.split("-")[1].isdigit()]
    return sorted(found, key=_step, reverse=True)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def _of(checkpoint: Path, fingerprint: str) -> bool:
    marker = _marker(checkpoint)
    return marker is not None and marker.fingerprint == fingerprint


def _marker(checkpoint: Path) -> Marker | None:
    """None without one, or with one that a crash or a disk has damaged."""
    path = checkpoint / MARKER
    try:
        return decode(path.read_bytes(), Marker) if path.is_file() else None
    except UNREADABLE:
        return None


def _damage(checkpoint: Path, marker: Marker | None) -> str:
    """What is wrong with it; empty when it is whole. Sizes come first: they cost nothing."""
    if marker is None:
        return "it has no marker that can be read, so it was not finished"
    for name, was in marker.files.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if (size := file.stat().st_size) != was.size:
            return f"{name} has {size} bytes, and was saved with {was.size}"
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda name: _sum(checkpoint / name), marker.files)
        changed = (name for (name, was), now in zip(marker.files.items(), found, strict=True) if now != was)
        name = next(changed, "")
    return f"{name} has another sha256 than it was saved with" if name else ""


def _sum(file: Path) -> Sum:
    return Sum(file.stat().st_size, sha256(file).hex())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
