"""How a run ends: from what was raised to exit code, state and message, for the command line and status.json."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

from erpo_ray import disk, stopping
from erpo_ray.errors import ErpoError, Interrupted


@dataclass(frozen=True, slots=True)
class Ending:
    """`state` and `exit_code` as in status.json; `message` is one text for a person."""

    state: Literal["done", "failed", "interrupted"]
    exit_code: int
    message: str


class Tell(Protocol):
    """What writes status.json: `RunDir.status`."""

    def __call__(self, state: Literal["done", "failed", "interrupted"], *, exit_code: int, message: str) -> None: ...


def known(error: BaseException) -> BaseException:
    """The exception in the project's own words, where it has some: Ctrl-C, a full disk, a folder that is shut."""
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(stopping.message())
    return (isinstance(error, OSError) and disk.fault(error)) or error


def ending(error: BaseException) -> Ending:
    """What an exception that reached the top means."""
    error = known(error)
    if isinstance(error, ErpoError):
        return Ending("interrupted" if isinstance(error, Interrupted) else "failed", error.exit_code, str(error))
    return Ending("failed", 1, f"{type(error).__name__}: {error}")


@contextmanager
def recorded(tell: Tell) -> Iterator[None]:
    """Tell how the block ended, and pass on what it raised."""
    try:
        yield
    except BaseException as error:
        end = ending(error)
        tell(end.state, exit_code=end.exit_code, message=end.message)
        raise
    tell("done", exit_code=0, message="")


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM stops the block as Ctrl-C does: with Interrupted, since a KeyboardInterrupt becomes exit code 130 above.

    At once, or after what is in flight: see `stopping`.
    """
    try:
        with stopping.signals():
            yield
    except KeyboardInterrupt as error:
        raise Interrupted(stopping.message()) from error
