"""A ledger: rows that are appended one by one and never lost once synced."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, TypeVar

from erpo_ray.errors import UsageError
from erpo_ray.rundir.failpoints import failpoint
from erpo_ray.rundir.files import Files
from erpo_ray.rundir.index import Index
from erpo_ray.rundir.lines import Line, damaged, ledger_line, typed, verify
from erpo_ray.rundir.reader import Reader
from erpo_ray.types import decode, encode

T = TypeVar("T")

GROUP_LINES = 64
GROUP_SECONDS = 0.05
"""An fsync costs milliseconds: one serves this many lines, or all lines of this time, whichever ends first."""

_LONGEST_LINE = 1 << 24


def _id_field(kind: type) -> str:
    return "id" if any(field.name == "id" for field in fields(kind)) else "candidate_id"


class Ledger(Generic[T]):
    """Typed rows in a JSON-lines file, each id once: a row whose id is there already is not written again.

    A kill -9 loses no appended row, a power cut at most those since the last sync; `after` names a ledger whose row of
    the same id reaches the disk first, so that no verdict can outlive its candidate and fit another text.
    Lines that a fenced driver (lower epoch) wrote after its successor opened the file are passed over.
    `check` raises when this driver is itself fenced. Not for use from several threads.
    """

    def __init__(
        self,
        files: Files,
        path: Path,
        kind: type[T],
        epoch: int = 0,
        *,
        after: Ledger[Any] | None = None,
        check: Callable[[], None] = lambda: None,
        note: Callable[[str], None] = lambda message: None,
        read_only: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Load what is there. A torn end is cut off and told to `note`; damage inside raises UsageError."""
        self.files, self.path, self.kind, self.epoch = files, path, kind, epoch
        self._after, self._check, self._note, self._clock = after, check, note, clock
        self._key: Callable[[T], str] = attrgetter(_id_field(kind))
        self._appended = f"{path.stem}:appended"
        self._pending: set[str] = set()
        self._since = 0.0
        self._read_only = read_only
        self._newest = 0
        if not read_only:
            check()
            if files.exists(path):
                self._trim()
        self._ids = Index()
        self._doubled = False
        for number, _, row in self._rows():
            key = self._key(row)
            if not self._ids.add(key):
                self._doubled = True
            elif after is not None and key not in after:
                raise damaged(path, number, f"{key} is not in {after.path.name}")
        if not read_only:
            self._begin()

    def __contains__(self, key: str) -> bool:
        return key in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[T]:
        """All rows in the order written, read from the file (unsynced ones too)."""
        seen: set[str] = set()
        for _, _, row in self._rows():
            if self._doubled:
                if (key := self._key(row)) in seen:
                    continue
                seen.add(key)
            yield row

    def reader(self) -> Reader[T]:
        """The rows that there are now (unsynced ones too), each by its id."""
        places = ((self._key(row), start) for _, start, row in self._rows())
        return Reader(self.files, self.path, self.kind, self._ids, places)

    def append(self, row: T) -> bool:
        """Write a row; False when its id is there already. Synced at the latest by the next append after 50 ms."""
        key = self._key(row)
        if self._read_only:
            raise UsageError(f"{self.path} is sealed: nothing can be added to it")
        if key in self._ids:
            return False
        data = encode(row)
        decode(data, self.kind)  # a NaN has no JSON: better no line than one that cannot be read back
        if self._after is not None and key in self._after._pending:
            self._after.sync()
        self.files.append(self.path, ledger_line(data, self.epoch))
        failpoint(self._appended)
        if not self._pending:
            self._since = self._clock()
        self._ids.add(key)
        self._pending.add(key)
        if len(self._pending) >= GROUP_LINES or self._clock() - self._since >= GROUP_SECONDS:
            self.sync()
        return True

    def sync(self) -> None:
        """Every row so far on disk. Raises RunFailed when another driver has taken over."""
        if self._pending:
            self._check()
            self.files.sync(self.path)
            self._pending.clear()

    def close(self) -> None:
        self.sync()
        self.files.close(self.path)

    def _rows(self) -> Iterator[tuple[int, int, T]]:
        for number, start, line in self._lines():
            yield number, start, typed(line, self.kind, self.path, number)

    def _lines(self) -> Iterator[tuple[int, int, Line]]:
        """Line numbers, offsets and verified lines with rows, without those of a fenced driver."""
        if not self.files.exists(self.path):
            return
        newest, end = 0, 0
        with self.files.open(self.path) as stream:
            for number, raw in enumerate(stream, 1):
                start, end = end, end + len(raw)
                verified = verify(raw)
                if verified is None:
                    raise damaged(self.path, number, "damaged (its checksum does not fit)")
                line = verified[0]
                newest = self._newest = max(newest, line.epoch)
                if line.row and line.epoch == newest:
                    yield number, start, line

    def _trim(self) -> None:
        """Cut off the end a crash left: a line without its newline, or one with the zeros of a page that never came."""
        size = self.files.size(self.path)
        tail = self.files.tail(self.path, _LONGEST_LINE)
        good = tail.rfind(b"\n") + 1
        while b"\0" in tail[(start := tail.rfind(b"\n", 0, max(0, good - 1)) + 1) : good]:
            good = start
        torn = len(tail) - good
        if torn and (good or size == torn):
            self.files.truncate(self.path, size - torn)
            self.files.sync(self.path)
            self._note(f"{self.path}: the last {torn} bytes were torn by a crash and are cut off (never counted)")

    def _begin(self) -> None:
        """Mark the begin of this epoch, so that a line of an older one that comes later is known as such."""
        # An empty ledger needs it too: the first line in it may be that of a driver that was passed over.
        mark = ledger_line(b"", self.epoch) if self.epoch > max(1, self._newest) else b""
        fresh = not self.files.exists(self.path)
        if fresh or mark:
            self.files.append(self.path, mark)
        if mark:
            self.files.sync(self.path)
        if fresh:
            self.files.syncdir(self.path.parent)
        # Newer lines than this lease: lease.json was deleted and counts from the start again.
        self.epoch = max(self.epoch, self._newest)
