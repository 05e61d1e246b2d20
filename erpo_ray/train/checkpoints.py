"""Resumable trainer checkpoints: a marker file, written last, says that one is whole and what it belongs to.

Pure: nothing here loads torch.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

MARKER = "COMPLETE.json"


def seal(checkpoint: Path, fingerprint: str) -> None:
    """Mark a fully written `checkpoint-N` as whole, then remove every other one beside it.

    The files reach the disk before the marker does, and the marker appears under its name in one step.
    """
    for file in checkpoint.rglob("*"):
        if file.is_file():
            _sync(file)
    draft = checkpoint / f"{MARKER}.draft"
    draft.write_text(json.dumps({"fingerprint": fingerprint}))
    _sync(draft)
    draft.rename(checkpoint / MARKER)
    _sync(checkpoint)
    _sync(checkpoint.parent)
    for other in _all(checkpoint.parent):
        if other != checkpoint:
            shutil.rmtree(other)


def latest(work: Path | None, fingerprint: str) -> Path | None:
    """The furthest whole checkpoint in `work` that carries `fingerprint`, or None; never a half-written one."""
    whole = [found for found in _all(work) if _fingerprint(found) == fingerprint] if work else []
    return max(whole, key=_step, default=None)


def _all(work: Path) -> list[Path]:
    return [path for path in work.glob("checkpoint-*") if path.is_dir() and path.name.split("-")[1].isdigit()]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def _fingerprint(checkpoint: Path) -> str | None:
    """What its marker says; None without one, or with one that a crash or a disk has damaged."""
    marker = checkpoint / MARKER
    try:
        return json.loads(marker.read_text())["fingerprint"] if marker.is_file() else None
    except (ValueError, LookupError, TypeError):
        return None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
