"""One driver a run: a lock while it lives, and an epoch that fences it once another has taken over."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from erpo_ray.errors import RunFailed, UsageError
from erpo_ray.rundir.files import Files
from erpo_ray.rundir.lines import artefact, artefact_rows
from erpo_ray.types import encode

LOCK = ".lease.lock"
FILE = "lease.json"
_FLOCK = "hhqqi4x"
"""`struct flock` of 64-bit Linux: type, whence, start, length, pid."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who drives a run. `since` is UTC in ISO form; `epoch` grows by one at each start."""

    epoch: int
    host: str
    pid: int
    since: str


class Lease:
    """The right to write into a run directory.

    The lock keeps a second driver out where locks work; where they do not (some network file systems, a lock file
    deleted by hand) both run, and `check` stops the one whose epoch has passed.
    """

    def __init__(self, files: Files, root: Path) -> None:
        """Take the lease of `root`. UsageError naming the holder while another process has it."""
        self.files, self.path = files, root / FILE
        fresh = not files.exists(root / LOCK)
        self._lock = files.lock(root / LOCK)
        if self._lock is None:
            raise UsageError(_held(root, self._holder()))
        if fresh:
            files.syncdir(root)
        last = self._read()
        self.holder = Holder(
            epoch=last.epoch + 1 if last else 1,
            host=socket.gethostname(),
            pid=os.getpid(),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        files.put(self.path, artefact([encode(self.holder)]))

    @property
    def epoch(self) -> int:
        return self.holder.epoch

    def check(self) -> None:
        """Raises RunFailed if another driver has taken over; called before anything becomes final."""
        now = self._read()
        if now != self.holder:
            by = f"pid {now.pid} on {now.host} since {now.since}" if now else "someone who removed lease.json"
            raise RunFailed(f"{self.path.parent} was taken over by {by}; this driver stops and writes nothing more")

    def release(self) -> None:
        if self._lock is not None:
            self.files.unlock(self._lock)
            self._lock = None

    def _read(self) -> Holder | None:
        if not self.files.exists(self.path):
            return None
        with self.files.open(self.path) as stream:
            try:
                return next(artefact_rows(stream, Holder, self.path))
            except UsageError:
                # Damaged is as good as deleted: the lock decides who drives, ledgers know their newest epoch.
                return None

    def _holder(self) -> Holder | None:
        """The live holder: one that has the lock may be about to write its name over that of a dead one."""
        found = None
        for _ in range(100):
            found = self._read()
            if found and (found.host != socket.gethostname() or _alive(found.pid)):
                break
            time.sleep(0.02)
        return found


def held(root: Path) -> bool | None:
    """Whether another process has the lease of `root`, on any machine whose locks this one sees; None where there is no
    lock file, or it cannot be asked.

    Not for the holder itself: a process that closes a file loses its locks on it.
    """
    try:
        with (root / LOCK).open("rb") as stream:
            found = fcntl.fcntl(stream, fcntl.F_GETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError:
        return None
    return struct.unpack(_FLOCK, found)[0] != fcntl.F_UNLCK


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _held(root: Path, holder: Holder | None) -> str:
    who = f"pid {holder.pid} on {holder.host} since {holder.since}" if holder else "another process"
    return f"{root} is being driven by {who}; wait until it ends, stop it, or use another --run-dir"
