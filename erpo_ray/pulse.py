"""The sign of life that a driver leaves in its run directory: what goes on, how far it is, how fast.

`progress.json` is for whoever watches, on another machine too, and is read by nothing else: it is replaced every few
seconds and not synced.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from erpo_ray.rundir.files import temporary
from erpo_ray.telemetry import Present, Standing, Trouble
from erpo_ray.types import UNREADABLE

FILE = "progress.json"
EVERY_S = 2.0

Tick = Callable[[int], None]
Phase = Callable[[str, int], AbstractContextManager[Tick]]
Steps = Callable[[int, int, Mapping[str, float]], None]


@dataclass(frozen=True, slots=True)
class Going:
    """A phase under way: units done of `total`, of which `before` were there when it began, in `seconds`."""

    name: str
    done: int
    total: int
    before: int
    seconds: float

    @property
    def rate(self) -> float | None:
        """Units a second since it began; None before there is one."""
        new = self.done - self.before
        return new / self.seconds if new > 0 and self.seconds > 0 else None

    @property
    def left_s(self) -> float | None:
        """Seconds until it is done, at that rate."""
        return (self.total - self.done) / self.rate if self.rate else None


@dataclass(frozen=True, slots=True)
class Beat:
    """`progress.json`: phases under way, workers by role, what went wrong last, and when it was written, in seconds
    since the epoch."""

    written: float
    phases: tuple[Going, ...]
    workers: dict[str, Present] = field(default_factory=dict)
    troubles: tuple[Trouble, ...] = ()


class Pulse:
    """Wraps the phases and the training steps of a run, and keeps `RUN/progress.json` for them.

    What the first tick of a phase counts was there before; its rate is that of what came after.
    """

    def __init__(
        self, run: Path, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time
    ) -> None:
        self._path, self._clock, self._now = run / FILE, clock, now
        self._lock = threading.Lock()
        self._going: dict[str, tuple[int, int, int, float]] = {}
        self._last = 0.0
        self._standing: Callable[[], Standing] = _nobody
        # What an earlier start left there is none of this one's.
        self._write()

    @contextmanager
    def watching(self, standing: Callable[[], Standing]) -> Iterator[None]:
        """Tell of these workers too, while the block goes on."""
        self._standing = standing
        with self._lock:
            self._write()
        try:
            yield
        finally:
            self._standing = _nobody

    def phase(self, inner: Phase) -> Phase:
        """The phase with a pulse."""

        @contextmanager
        def beating(name: str, total: int) -> Iterator[Tick]:
            done = 0
            try:
                with inner(name, total) as tick:

                    def count(number: int) -> None:
                        nonlocal done
                        tick(number)
                        done += number
                        self._tell(name, done, total)

                    yield count
            finally:
                self._end(name)

        return beating

    def steps(self, inner: Steps) -> Steps:
        """The steps of training with a pulse."""

        def beating(step: int, steps: int, metrics: Mapping[str, float]) -> None:
            inner(step, steps, metrics)
            self._tell("training", step, steps)
            if step >= steps:
                self._end("training")

        return beating

    def _tell(self, name: str, done: int, total: int) -> None:
        with self._lock:
            new = name not in self._going
            before, since = (done, self._clock()) if new else self._going[name][2:]
            self._going[name] = done, total, before, since
            if new or self._clock() - self._last >= EVERY_S:
                self._write()

    def _end(self, name: str) -> None:
        with self._lock:
            if self._going.pop(name, None):
                self._write()

    def _write(self) -> None:
        self._last = self._clock()
        phases = tuple(
            Going(name, done, total, before, round(self._last - since, 3))
            for name, (done, total, before, since) in self._going.items()
        )
        now, growing = self._standing(), temporary(self._path)
        # A full disk is for the ledgers to tell, which count; this file does not stop a run.
        with suppress(OSError):
            growing.write_bytes(msgspec.json.encode(Beat(self._now(), phases, now.workers, now.troubles)))
            os.replace(growing, self._path)


def _nobody() -> Standing:
    return Standing({})


def beat(run: Path) -> Beat | None:
    """The last sign of life; None when there is none, or none whole: a power cut may empty what was not synced."""
    path = run / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Beat)
    except (FileNotFoundError, *UNREADABLE):
        return None
