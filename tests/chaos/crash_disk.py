"""A disk in memory that can lose power after any operation, and tell what may then be left on it."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from os.path import dirname
from pathlib import Path
from typing import BinaryIO

from erpo_ray.rundir import Files

Node = int | str
"""An inode number, or `dir`, or `link:target`."""
Names = dict[str, Node]
Change = tuple[str | None, str | None, Node]
"""Old name (None for a creation), new name (None for a removal), what it names."""


class PowerCut(BaseException):
    """Nothing may catch this: the machine is off."""


class Disk(Files):
    """Names and contents, each in two versions: as the process sees them, and as they are certain to be on disk.

    Contents become certain by `sync`, names (created, renamed, removed) by `syncdir` of their folder, nothing else.
    The power fails right after operation `cut_at`.
    """

    def __init__(self, names: Names | None = None, data: dict[int, bytes] | None = None, cut_at: int = 0) -> None:
        super().__init__()
        self.live: Names = dict(names or {"/": "dir"})
        self.certain: Names = dict(self.live)
        self.data = dict(data or {})
        self.certain_data = dict(self.data)
        self.pending: list[tuple[str, Change]] = []
        self.dirty: list[int] = []
        self.log: list[str] = []
        self.cut_at = cut_at
        self._inodes = itertools.count(max(self.data, default=0) + 1)

    def _begin(self) -> None:
        if 0 < self.cut_at <= len(self.log):
            raise PowerCut("whatever still runs on the way out does nothing")

    def _done(self, what: str) -> None:
        self.log.append(what)
        if len(self.log) == self.cut_at:
            raise PowerCut(what)

    # Reading

    def open(self, path: Path) -> BinaryIO:
        if not isinstance(node := self.live.get(str(path)), int):
            raise FileNotFoundError(path)
        return io.BytesIO(self.data[node])

    def exists(self, path: Path) -> bool:
        return str(path) in self.live

    def is_dir(self, path: Path) -> bool:
        return self.live.get(str(path)) == "dir"

    def names(self, path: Path) -> list[str]:
        folder = f"{path}/"
        return sorted(
            name[len(folder) :] for name in self.live if name.startswith(folder) and "/" not in name[len(folder) :]
        )

    def free(self, path: Path) -> int:
        return 1 << 40

    # Writing

    def lock(self, path: Path) -> int | None:
        self._create(str(path))
        return 1

    def unlock(self, handle: int) -> None:
        pass

    def close(self, path: Path) -> None:
        pass

    def mkdir(self, path: Path) -> None:
        self._begin()
        self._name(None, str(path), "dir")
        self._done(f"mkdir {path}")

    def write(self, path: Path, data: bytes) -> None:
        self._begin()
        self._fill(path, data)
        self._done(f"write {path}")

    def append(self, path: Path, data: bytes) -> None:
        self._begin()
        node = self.live.get(str(path))
        self._fill(path, (self.data[node] if isinstance(node, int) else b"") + data)
        self._done(f"append {path}")

    def truncate(self, path: Path, size: int) -> None:
        self._begin()
        self._fill(path, self.read(path)[:size])
        self._done(f"truncate {path}")

    def sync(self, path: Path) -> None:
        self._begin()
        node = self.live[str(path)]
        if node == "dir":
            for folder, change in self.pending:
                if folder == str(path):
                    _apply(self.certain, change)
            self.pending = [entry for entry in self.pending if entry[0] != str(path)]
        elif isinstance(node, int):
            self.certain_data[node] = self.data[node]
            self.dirty = [inode for inode in self.dirty if inode != node]
        self._done(f"sync {path}")

    def rename(self, old: Path, new: Path) -> None:
        self._begin()
        if self.is_dir(new):
            raise IsADirectoryError(new)
        self._name(str(old), str(new), self.live[str(old)])
        self._done(f"rename {new}")

    def symlink(self, target: str, path: Path) -> None:
        self._begin()
        self._name(None, str(path), f"link:{target}")
        self._done(f"symlink {path}")

    def remove(self, path: Path) -> None:
        self._begin()
        self._name(str(path), None, "")
        self._done(f"remove {path}")

    def _create(self, path: str) -> int:
        if not isinstance(node := self.live.get(path), int):
            if self.live.get(dirname(path)) != "dir":
                raise FileNotFoundError(path)
            node = next(self._inodes)
            self.data[node] = b""
            self._name(None, path, node)
        return node

    def _fill(self, path: Path, data: bytes) -> None:
        node = self._create(str(path))
        self.data[node] = data
        self.dirty = [*(inode for inode in self.dirty if inode != node), node]

    def _name(self, old: str | None, new: str | None, node: Node) -> None:
        _apply(self.live, (old, new, node))
        self.pending.append((dirname(new or old or "/"), (old, new, node)))

    # After the cut

    def images(self) -> Iterator[tuple[str, Disk]]:
        """What the disk may hold: `killed` for a dead process on a live machine, the rest for a lost one."""
        yield "killed", self._image(self.live, self.data)
        yield "unsynced lost", self._image(self.certain, self.certain_data)
        yield "names before data", self._image(self.live, self.certain_data)
        yield "data before names", self._image(self.certain, self.data)
        for _, change in self.pending[-2:]:
            names = dict(self.certain)
            _apply(names, change)
            yield "names out of order", self._image(names, self.certain_data)
        if len(self.dirty) > 1:
            for inode in self.dirty:
                early = self.certain_data | {inode: self.data[inode]}
                yield "data out of order", self._image(self.live, early)
        if self.dirty:
            last = self.dirty[-1]
            old, new = self.certain_data.get(last, b""), self.data[last]
            for torn in (new[: (len(old) + len(new)) // 2], new[: max(len(old), len(new) - 1)]):
                yield "torn", self._image(self.live, self.data | {last: torn})
            yield "zeros", self._image(self.live, self.data | {last: old + bytes(max(0, len(new) - len(old)))})

    def state(self) -> frozenset[tuple[str, object]]:
        """All there is on it, to tell equal disks."""
        return frozenset((name, self.data[node] if isinstance(node, int) else node) for name, node in self.live.items())

    def _image(self, names: Names, data: dict[int, bytes]) -> Disk:
        kept: Names = {}
        for path in sorted(names):
            if path == "/" or kept.get(dirname(path)) == "dir":
                kept[path] = names[path]
        return Disk(kept, {node: data.get(node, b"") for node in kept.values() if isinstance(node, int)})


def _apply(names: Names, change: Change) -> None:
    old, new, node = change
    if old is None or names.get(old) != "dir":
        if old is not None:
            node = names.pop(old, node)
        if new is not None:
            names[new] = node
        return
    for path in [path for path in names if path == old or path.startswith(f"{old}/")]:
        kept = names.pop(path)
        if new is not None:
            names[new + path.removeprefix(old)] = kept
