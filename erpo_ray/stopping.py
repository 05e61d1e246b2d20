"""How a command is asked to stop: one signal lets what is in flight end and be kept, the next one ends it now.

Whoever does something worth waiting for is `patiently` at it and looks at `asked` now and then. A trainer in another
process finds a file in its work folder.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from erpo_ray.errors import Interrupted

FILE = "stop"
"""In the work folder of a training: it is to end with the step that it is in."""
CLEANING_S = 30.0
"""Seconds after the signal that ended it now in which further ones are taken for the same one: whoever cleans up then
would leave processes and files behind."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(slots=True)
class _Driver:
    """Of this process. `patience`: how many blocks that look for it are open; `ended`: when it was ended now."""

    asked: bool = False
    patience: int = 0
    ended: float | None = None


_driver = _Driver()


def asked() -> bool:
    """Whether nothing new is to be begun in this process."""
    return _driver.asked


def check() -> None:
    """Interrupted when nothing new is to be begun."""
    if asked():
        raise Interrupted(message())


def message(command: str = "") -> str:
    """The one sentence at the end."""
    return f"interrupted; go on with: {command}" if command else "interrupted; the same command continues"


@contextmanager
def patiently() -> Iterator[None]:
    """A first signal does not end the block, which looks at `asked`. Behind the block it is Interrupted."""
    _driver.patience += 1
    try:
        yield
        check()
    finally:
        _driver.patience -= 1


@contextmanager
def signals() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM ask to stop; the second, or one that meets nobody patient, is a KeyboardInterrupt.

    A SIGINT that the process was started to ignore, as behind `&` in a script, stays ignored. Outside the main thread,
    where no handler can be set, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.getsignal(each) for each in _SIGNALS}
    for each, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(each, lambda number, frame: _signalled())
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        _driver.asked, _driver.ended = False, None


def _signalled() -> None:
    if _driver.ended is not None and time.monotonic() - _driver.ended < CLEANING_S:
        return
    first, _driver.asked = not _driver.asked, True
    if first and _driver.patience:
        # Not by print, whose buffer the signal may have come in the middle of.
        os.write(2, b"\nerpo: stops after what is in flight, which is kept; once more: now\n")
        return
    _driver.ended = time.monotonic()
    raise KeyboardInterrupt


def leave(work: Path) -> None:
    """Ask the training in this work folder to stop."""
    (work / FILE).touch()


def clear(work: Path) -> None:
    """A training begins in this work folder: whoever stopped an earlier one does not mean it."""
    (work / FILE).unlink(missing_ok=True)


def left(work: Path) -> bool:
    """Whether the training in this work folder is asked to stop: by file, or in this very process."""
    return asked() or (work / FILE).exists()
