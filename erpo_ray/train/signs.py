"""Signs of life of a training rank, in a small file beside its checkpoints: whoever waits for it asks nobody.

A training tells with `mark` what it does, and knows nothing of files: without `left` around it, marks go nowhere. A
thread writes what was marked last, and how often it has written: it goes on where a collective hangs, and stands still
with the process. Pure: nothing here loads torch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from erpo_ray.terminal import say
from erpo_ray.types import UNREADABLE, decode, encode

FOLDER = "signs"
"""In the folder of the checkpoints."""
BEAT_S = 2.0

Doing = Literal["start", "score", "step", "save"]


@dataclass(frozen=True, slots=True)
class Sign:
    """What one of `ranks` ranks does, and after which step; `marks` and `beats` are how often it has got on, and
    written. `slowest_s` is the longest step of its process, 0 before the first is done. `notes` are lines to be said.
    """

    ranks: int
    doing: Doing = "start"
    step: int = 0
    slowest_s: float = 0.0
    marks: int = 0
    beats: int = 0
    notes: tuple[str, ...] = ()


class Signs:
    """The file of one rank, written every `BEAT_S` seconds until `end`."""

    def __init__(self, work: Path, rank: int, ranks: int) -> None:
        self._path, self._sign = work / FOLDER / f"rank-{rank}.json", Sign(ranks)
        self._since = time.monotonic()
        self._ended = threading.Event()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._write(beats=0)
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def mark(self, doing: Doing, step: int) -> None:
        now, was = time.monotonic(), self._sign
        stepped = doing == was.doing == "step" and step > was.step
        slowest = max(was.slowest_s, now - self._since) if stepped else was.slowest_s
        if stepped or doing != was.doing:
            self._since = now
        self._sign = replace(was, doing=doing, step=step, slowest_s=slowest, marks=was.marks + 1)

    def tell(self, line: str) -> None:
        self._sign = replace(self._sign, notes=(*self._sign.notes, line))

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        beats, ended = 0, False
        while not ended:
            ended, beats = self._ended.wait(BEAT_S), beats + 1
            # The last rank may end when the driver has done away with the folder.
            if self._path.parent.is_dir():
                self._write(beats)

    def _write(self, beats: int) -> None:
        scratch = self._path.with_suffix(".tmp")
        scratch.write_bytes(encode(replace(self._sign, beats=beats)))
        scratch.replace(self._path)


_SIGNS: ContextVar[Signs | None] = ContextVar("signs", default=None)


@contextmanager
def left(work: Path, rank: int, ranks: int) -> Iterator[None]:
    """Inside, what is marked by this thread is written below `work`."""
    signs = Signs(work, rank, ranks)
    token = _SIGNS.set(signs)
    try:
        yield
    finally:
        _SIGNS.reset(token)
        signs.end()


def mark(doing: Doing, step: int = 0) -> None:
    """Training has got on: it begins to do this, or has done a part of it."""
    if signs := _SIGNS.get():
        signs.mark(doing, step)


def tell(line: str) -> None:
    """A line for whoever started the training."""
    if signs := _SIGNS.get():
        signs.tell(line)
    else:
        say(line)


def read(work: Path) -> dict[int, Sign]:
    """The last sign of each rank that has left one."""
    found: dict[int, Sign] = {}
    for path in (work / FOLDER).glob("rank-*.json"):
        try:
            found[int(path.stem.removeprefix("rank-"))] = decode(path.read_bytes(), Sign)
        except UNREADABLE:
            # A power cut of an earlier start has torn it: the rank writes it anew.
            continue
    return found


def clear(work: Path) -> None:
    """Take away what earlier ranks left."""
    for path in (work / FOLDER).glob("rank-*.json"):
        path.unlink()
