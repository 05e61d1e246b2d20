"""Progress of phases: a bar with rate and time left on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Any, TextIO

from erpo_ray.terminal import clean

Tick = Callable[[int], None]


class Progress:
    """`with progress.phase("rollouts", 960) as tick: tick(1)`. Phases of several threads go on side by side.

    Without a terminal a line is written when a phase begins, every `interval` seconds while it ticks, and at its end.
    """

    def __init__(
        self, stream: TextIO | None = None, interval: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream or sys.stderr
        self._interval = interval
        self._clock = clock
        self._training: ExitStack | None = None
        self._tick: Tick = lambda count: None
        self._stepped = 0
        self._lock = Lock()
        self._going = 0
        self._bars: Any = None

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[Tick]:
        """A phase of `total` units; the tick it gives takes the number of units just done."""
        inner = self._bar if self._stream.isatty() else self._lines
        with inner(clean(name), total) as tick:
            yield tick

    def steps(self, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        """Told by a trainer after each optimiser step: opens a phase at the first and closes it at the last."""
        if self._training is None:
            self._training, self._stepped = ExitStack(), 0
            self._tick = self._training.enter_context(self.phase("training", steps))
        self._tick(step - self._stepped)
        self._stepped = step
        if step >= steps:
            self._training.close()
            self._training = None

    @contextmanager
    def _bar(self, name: str, total: int) -> Iterator[Tick]:
        from rich.markup import escape

        pace = _Pace(self._clock)
        with self._drawn() as bars:
            task = bars.add_task(escape(name), total=total, rate="")

            def tick(count: int) -> None:
                pace.tick(count)
                bars.update(task, completed=pace.done, rate=pace.said)

            yield tick

    @contextmanager
    def _drawn(self) -> Iterator[Any]:
        """The bars of all phases that go on: a terminal has room for one drawing."""
        with self._lock:
            if not self._going:
                self._bars = _bars(self._stream)
                self._bars.start()
            self._going += 1
        try:
            yield self._bars
        finally:
            with self._lock:
                self._going -= 1
                if not self._going:
                    self._bars.stop()

    @contextmanager
    def _lines(self, name: str, total: int) -> Iterator[Tick]:
        start = last = self._clock()
        pace = _Pace(self._clock)

        def tick(count: int) -> None:
            nonlocal last
            pace.tick(count)
            now = self._clock()
            if now - last >= self._interval:
                last = now
                left = f", {lasting((total - pace.done) / pace.rate)} left" if pace.rate else ""
                self._say(f"{name}: {pace.done}/{total}, {pace.said}{left}")

        self._say(f"{name}: 0/{total}")
        yield tick
        self._say(f"{name}: {pace.done}/{total} in {lasting(self._clock() - start)}, {pace.said}")

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


def _bars(stream: TextIO) -> Any:
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description:<24}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    return progress.Progress(*columns, console=Console(file=stream))


class _Pace:
    """Units done, and how fast since the first tick: what that one counts was there before this start."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._since, self._before = clock, None, 0
        self.done, self.rate = 0, 0.0

    def tick(self, count: int) -> None:
        now = self._clock()
        self.done += count
        if self._since is None:
            self._since, self._before = now, self.done
        seconds = now - self._since
        self.rate = (self.done - self._before) / seconds if seconds > 0 else 0.0

    @property
    def said(self) -> str:
        return f"{self.rate:.1f}/s" if self.rate else "-/s"


def lasting(seconds: float) -> str:
    """Seconds as `M:SS` or `H:MM:SS`."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"
