"""The file layer: every byte a run directory receives goes through `Files`.

Tests put another `Files` in its place to fail or crash at the Nth operation; an object store can follow the same way.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from erpo_ray import disk
from erpo_ray.errors import EnvironmentFault
from erpo_ray.rundir.failpoints import failpoint

_INSTEAD = "use another --run-dir"


def temporary(path: Path) -> Path:
    """Where an artefact grows before it gets its name; whatever bears such a name after a crash is worthless."""
    return path.with_name(f".{path.name}.tmp")


def working(path: Path) -> Path:
    """Where the maker of a directory keeps what a crash shall not cost it, until the directory is there."""
    return path.with_name(f".{path.name}.work")


def inside(folder: Path, name: str) -> Path:
    """`folder/name`. ValueError unless `name` is a plain file name that cannot be taken for a temporary one."""
    if not name or name != Path(name).name or name.startswith("."):
        raise ValueError(f"{name!r} is not a plain file name")
    return folder / name


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise EnvironmentFault(f"cannot read {path}: {error.strerror}; make it readable") from error


class Files:
    """Local files. What fails raises EnvironmentFault naming path, bytes and remedy.

    A path that failed once fails for good: after a failed fsync the kernel may have dropped the data, so that a second
    fsync would say yes to nothing, and an append after half an append would damage the inside of a file.
    """

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}
        self._failed: dict[Path, str] = {}

    @contextmanager
    def _guard(self, action: str, path: Path) -> Iterator[None]:
        self._require(path)
        try:
            yield
        except OSError as error:
            raise self._fault(f"{action} {path}", path, error) from error

    def _require(self, path: Path) -> None:
        if path in self._failed:
            raise EnvironmentFault(self._failed[path])

    def _fault(self, action: str, path: Path, error: OSError) -> EnvironmentFault:
        remedy = disk.remedy(error, _INSTEAD)
        self._failed[path] = f"cannot {action}: {error.strerror}; {remedy}, then start the same command again"
        return EnvironmentFault(self._failed[path])

    # Reading

    def open(self, path: Path) -> BinaryIO:
        """The bytes of `path`, as a stream. FileNotFoundError if it is not there."""
        with _readable(path):
            return path.open("rb")

    def exists(self, path: Path) -> bool:
        """True for anything with that name, a dangling link too."""
        return os.path.lexists(path)

    def is_dir(self, path: Path) -> bool:
        return path.is_dir()

    def names(self, path: Path) -> list[str]:
        """What a directory holds, sorted."""
        with _readable(path):
            return sorted(os.listdir(path))

    def free(self, path: Path) -> int:
        """Bytes that can still be written at `path`, which exists."""
        return shutil.disk_usage(path).free

    # Writing: one system operation each

    def lock(self, path: Path) -> int | None:
        """Take the exclusive lock of `path` (created if needed): a handle for `unlock`, None while another has it.

        A POSIX record lock and not flock: a child forked by an engine would inherit a flock and keep it after a
        kill -9 of the driver. Two holders inside one process are not told apart; the epoch of the lease does that.
        """
        with self._guard("lock", path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                return None
            return handle

    def unlock(self, handle: int) -> None:
        os.close(handle)

    def mkdir(self, path: Path) -> None:
        """A directory; one that another driver has just made will do."""
        with self._guard("create", path):
            os.makedirs(path, exist_ok=True)

    def write(self, path: Path, data: bytes) -> None:
        """Give `path` these contents in place."""
        self._write(path, data, os.O_TRUNC)

    def append(self, path: Path, data: bytes) -> None:
        self._write(path, data, os.O_APPEND)

    def _write(self, path: Path, data: bytes, mode: int) -> None:
        # Once a ledger line: without the generator behind `_guard`, a third of an append.
        self._require(path)
        try:
            handle = self._descriptors.get(path)
            if handle is None:
                handle = self._descriptors[path] = os.open(path, os.O_WRONLY | os.O_CREAT | mode, 0o644)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(handle, rest) :]
        except OSError as error:
            what = f"write {len(data)} bytes to {path}" if data else f"write {path}"
            raise self._fault(what, path, error) from error

    def sync(self, path: Path) -> None:
        """Data of a file, or names in a directory, on disk."""
        with self._guard("sync", path):
            # The descriptor that wrote is the one sure to learn of a failed write-back.
            handle = self._descriptors.get(path)
            if handle is not None:
                os.fsync(handle)
                return
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def close(self, path: Path) -> None:
        """Forget the descriptor of `path`; does not sync."""
        handle = self._descriptors.pop(path, None)
        if handle is not None:
            os.close(handle)

    def syncdir(self, path: Path) -> None:
        self.sync(path)

    def rename(self, old: Path, new: Path) -> None:
        """Replaces a file at `new`."""
        with self._guard("rename", new):
            os.replace(old, new)

    def truncate(self, path: Path, size: int) -> None:
        with self._guard("truncate", path):
            os.truncate(path, size)

    def symlink(self, target: str, path: Path) -> None:
        with self._guard("link", path):
            os.symlink(target, path)

    def remove(self, path: Path) -> None:
        """A file, a link, or a directory with all it holds."""
        with self._guard("remove", path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                os.unlink(path)

    # Composed of the above

    def read(self, path: Path) -> bytes:
        with self.open(path) as stream:
            return stream.read()

    def size(self, path: Path) -> int:
        with self.open(path) as stream:
            return stream.seek(0, os.SEEK_END)

    def tail(self, path: Path, size: int) -> bytes:
        """The last `size` bytes, or all when there are fewer."""
        with self.open(path) as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - size))
            return stream.read()

    def digest(self, path: Path) -> tuple[int, str]:
        """Size in bytes and sha256 in hex."""
        total = hashlib.sha256()
        with self.open(path) as stream:
            while block := stream.read(1 << 20):
                total.update(block)
            return stream.tell(), total.hexdigest()

    def below(self, path: Path) -> tuple[list[Path], list[Path]]:
        """All files and all directories under `path`, itself the last of the directories."""
        files: list[Path] = []
        directories: list[Path] = []
        for name in self.names(path):
            entry = path / name
            if self.is_dir(entry):
                inner_files, inner_directories = self.below(entry)
                files += inner_files
                directories += inner_directories
            else:
                files.append(entry)
        return files, [*directories, path]

    def ensure(self, path: Path) -> None:
        """A directory and its parents, their names on disk."""
        if not self.exists(path):
            self.ensure(path.parent)
            self.mkdir(path)
            self.syncdir(path.parent)

    def put(self, path: Path, data: bytes) -> None:
        """Contents of a whole file: after a crash at any moment `path` holds the old ones or these."""
        name, growing = path.name.partition(".")[0], temporary(path)
        failpoint(f"{name}:before")
        try:
            self.write(growing, data)
            failpoint(f"{name}:written")
            self.sync(growing)
        finally:
            self.close(growing)
        failpoint(f"{name}:synced")
        self.rename(growing, path)
        failpoint(f"{name}:renamed")
        self.syncdir(path.parent)
