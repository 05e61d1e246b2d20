"""What a process holds of its machine, and who holds so much more than at first that it is better begun anew."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30
_PROCESS = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process: resident memory of its own in bytes, open file descriptors, threads.

    Pages of files and shared ones are left out: a sleeping engine keeps its weights in such, and that is no growth.
    """

    rss: int
    fds: int
    threads: int
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Actor:
    """A row of actors.jsonl: what an actor (`driver`, `rollout-0`, `judge-0`, `trainer-0`, `desk`) held when a stage
    ended.

    `replaced`: it had grown too much, and another one took its place.
    """

    stage: str
    actor: str
    rss: int
    fds: int
    threads: int
    pid: int
    replaced: bool = False


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What all workers held, by the name of the actor, and those that were replaced."""

    held: Mapping[str, Usage]
    replaced: tuple[str, ...] = ()


def usage() -> Usage:
    """Of this process, as Linux tells it."""
    _, resident, shared, *_ = map(int, (_PROCESS / "statm").read_text().split())
    fds, threads = len(os.listdir(_PROCESS / "fd")), len(os.listdir(_PROCESS / "task"))
    return Usage((resident - shared) * os.sysconf("SC_PAGE_SIZE"), fds, threads, os.getpid())


def rows(stage: str, upkeep: Upkeep) -> list[Actor]:
    """Of all workers and of this process, the driver."""
    held = {"driver": usage(), **upkeep.held}
    return [
        Actor(stage, name, one.rss, one.fds, one.threads, one.pid, name in upkeep.replaced)
        for name, one in held.items()
    ]


class Growth:
    """How much each process has grown since it was first seen; one with a new pid begins anew."""

    def __init__(self, limit_gib: float) -> None:
        self._limit = limit_gib * GIB
        self._first: dict[str, Usage] = {}

    def beyond(self, held: Mapping[str, Usage]) -> tuple[str, ...]:
        """Names of those whose memory grew by more than the limit."""
        for name, now in held.items():
            if name not in self._first or self._first[name].pid != now.pid:
                self._first[name] = now
        return tuple(name for name, now in held.items() if now.rss - self._first[name].rss > self._limit)
