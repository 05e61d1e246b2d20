"""Plain JSON lines that only grow: a torn end is cut off when they are opened, what stands in them is never changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from erpo_ray.rundir.files import Files


class PlainLines:
    """One such file. It comes about with the first line, or at once with `create`."""

    def __init__(self, files: Files, path: Path, note: Callable[[str], None], create: bool = False) -> None:
        self.path, self._files, self._note = path, files, note
        if create and not files.exists(path):
            self._begin()
        self.lines = self._whole() if files.exists(path) else []
        """What was there when it was opened."""

    def append(self, row: bytes) -> None:
        """A line, not on disk before `sync`."""
        if not self._files.exists(self.path):
            self._begin()
        self._files.append(self.path, row + b"\n")

    def sync(self) -> None:
        self._files.sync(self.path)

    def close(self) -> None:
        self._files.close(self.path)

    def _begin(self) -> None:
        self._files.append(self.path, b"")
        self._files.syncdir(self.path.parent)

    def _whole(self) -> list[bytes]:
        data = self._files.read(self.path)
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            self._files.truncate(self.path, len(whole))
            self._note(f"{self.path}: the last {len(data) - len(whole)} bytes were torn by a crash and are cut off")
        return whole.splitlines()
