"""What is said of workers that were lost: printed at once, and the last of it kept for whoever watches the run."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from erpo_ray.telemetry import Trouble
from erpo_ray.terminal import say as print_line

KEPT = 5


class Notes:
    """Call it with a line."""

    def __init__(self, say: Callable[[str], None] = print_line, now: Callable[[], float] = time.time) -> None:
        self._say, self._now = say, now
        self._last: deque[Trouble] = deque(maxlen=KEPT)

    def __call__(self, line: str) -> None:
        self._last.append(Trouble(self._now(), line))
        self._say(line)

    @property
    def last(self) -> tuple[Trouble, ...]:
        """The last few, oldest first. For any thread."""
        return tuple(self._last)
