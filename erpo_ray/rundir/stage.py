"""One stage's directory: artefacts that appear whole, and a seal that closes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from erpo_ray.errors import UsageError
from erpo_ray.rundir.failpoints import failpoint
from erpo_ray.rundir.files import Files, inside, temporary, working
from erpo_ray.rundir.lease import Lease
from erpo_ray.rundir.ledger import Ledger
from erpo_ray.rundir.lines import artefact, artefact_rows, damaged
from erpo_ray.types import decode, encode

T = TypeVar("T")
SEAL = "stage.json"


@dataclass(frozen=True, slots=True)
class Sum:
    """Size in bytes and sha256 in hex of one file."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Seal:
    """stage.json: what the stage amounted to, and every file it is made of (paths relative to the stage)."""

    stage: str
    epoch: int
    meta: dict[str, Any]
    files: dict[str, Sum] = field(default_factory=dict)


class StageDir:
    """`with run.stage("01-prefer") as s:`; leaving the block syncs and closes the ledgers, `seal` is the caller's.

    Each artefact is made once: on a later start it is read instead. Names are plain file names, without a leading dot.
    """

    def __init__(self, files: Files, path: Path, lease: Lease, note: Callable[[str], None]) -> None:
        """Open or create. UsageError when a sealed stage is not what was sealed."""
        self.files, self.path = files, path
        self._lease, self._note = lease, note
        self._ledgers = ExitStack()
        self._seal: Seal | None = None
        files.ensure(path)
        if files.exists(path / SEAL):
            self._seal = self._row(SEAL, Seal)
            self._verify(self._seal)

    def __enter__(self) -> StageDir:
        return self

    def __exit__(self, *exception: object) -> None:
        self._ledgers.close()

    @property
    def sealed(self) -> bool:
        """True when the stage is complete: everything in it can be read, nothing made."""
        return self._seal is not None

    @property
    def meta(self) -> dict[str, Any]:
        """What `seal` was given; empty before."""
        return self._seal.meta if self._seal else {}

    def once(self, filename: str, kind: type[T], make: Callable[[], Iterable[T]]) -> tuple[T, ...]:
        """Rows of a JSON-lines artefact: those `make` gives, or those of the file when it is there."""
        path = inside(self.path, filename)
        if not self._there(path):
            self.put(filename, kind, make())
        return self._rows(filename, kind)

    def put(self, filename: str, kind: type[T], rows: Iterable[T]) -> None:
        """A JSON-lines artefact that belongs to a try: written anew whenever what it tells of is tried again."""
        lines = [encode(row) for row in rows]
        for line in lines:
            decode(line, kind)  # a NaN has no JSON: better no file than one that cannot be read back
        self._lease.check()
        self.files.put(inside(self.path, filename), artefact(lines))

    def value(self, filename: str, kind: type[T], make: Callable[[], T]) -> T:
        """A single value, like `once`."""
        return _only(self.once(filename, kind, lambda: (make(),)), inside(self.path, filename))

    def directory(self, name: str, make: Callable[[Path, Path], dict[str, float]]) -> Path:
        """A directory that `make(out, work)` fills: it is there whole or not at all.

        `out` is empty at each try. `work` survives a crash, for the checkpoints of a trainer, and goes when the
        directory is done. What `make` returns is kept as `facts`.
        """
        path = inside(self.path, name)
        growing, work = temporary(path), working(path)
        if not self._there(path):
            if self.files.exists(growing):
                self.files.remove(growing)
            self.files.ensure(growing)
            self.files.ensure(work)
            failpoint(f"{name}:before")
            facts = make(growing, work)
            failpoint(f"{name}:written")
            made, folders = self.files.below(growing)
            for entry in [*made, *folders]:
                self.files.sync(entry)
            self._lease.check()
            self.files.put(self._facts(name), artefact([encode(facts)]))
            failpoint(f"{name}:synced")
            self.files.rename(growing, path)
            failpoint(f"{name}:renamed")
            self.files.syncdir(self.path)
        if self.files.exists(work):
            self.files.remove(work)
        return path

    def facts(self, name: str) -> dict[str, float]:
        """What the `make` of directory `name` returned, in this start or an earlier one."""
        return self._row(self._facts(name).name, dict[str, float])

    def ledger(self, filename: str, kind: type[T], after: Ledger[Any] | None = None) -> Ledger[T]:
        """A ledger of this stage, read-only once sealed. Of two that are joined by id, the later names the earlier."""
        path = inside(self.path, filename)
        self._there(path)
        ledger = Ledger(
            self.files,
            path,
            kind,
            self._lease.epoch,
            after=after,
            check=self._lease.check,
            note=self._note,
            read_only=self.sealed,
        )
        self._ledgers.callback(ledger.close)
        return ledger

    def seal(self, meta: dict[str, Any]) -> None:
        """Declare the stage complete: `meta` (plain JSON values), size and sha256 of all its files, written last."""
        self._ledgers.close()
        sums = {}
        for path in self.files.below(self.path)[0]:
            name = path.relative_to(self.path)
            if not name.parts[0].startswith("."):
                sums[name.as_posix()] = Sum(*self.files.digest(path))
        self._lease.check()
        self.files.put(self.path / SEAL, artefact([encode(Seal(self.path.name, self._lease.epoch, meta, sums))]))
        self._seal = self._row(SEAL, Seal)
        failpoint("stage:sealed")

    def _facts(self, name: str) -> Path:
        return self.path / f"{name}_facts.json"

    def _there(self, path: Path) -> bool:
        """Whether it is made. UsageError when it never will be, the stage being sealed."""
        there = self.files.exists(path)
        if self.sealed and not there:
            raise UsageError(
                f"{self.path} is sealed without {path.name}: another version of erpo_ray wrote it. "
                "Continue with that version, or use another --run-dir"
            )
        return there

    def _rows(self, filename: str, kind: type[T]) -> tuple[T, ...]:
        path = self.path / filename
        try:
            with self.files.open(path) as stream:
                return tuple(artefact_rows(stream, kind, path))
        except FileNotFoundError as error:
            raise damaged(path, 1, "the file is gone") from error

    def _row(self, filename: str, kind: type[T]) -> T:
        return _only(self._rows(filename, kind), self.path / filename)

    def _verify(self, seal: Seal) -> None:
        for path, was, found in _altered(self.files, self.path, seal):
            what = f"has {found.size} bytes, sha256 {found.sha256[:12]}" if found else "is missing"
            raise UsageError(
                f"{path} {what}, but was sealed with {was.size} bytes, sha256 {was.sha256[:12]}. Restore it from a "
                f"copy, or move {self.path} and the stages after it away and start the same command again"
            )


def intact(files: Files, stage: Path) -> bool:
    """Whether the directory is a sealed stage that still is what was sealed."""
    try:
        with files.open(stage / SEAL) as stream:
            (seal,) = artefact_rows(stream, Seal, stage / SEAL)
    except (FileNotFoundError, ValueError, UsageError):
        return False
    return next(_altered(files, stage, seal), None) is None


def _altered(files: Files, stage: Path, seal: Seal) -> Iterator[tuple[Path, Sum, Sum | None]]:
    """Each file that is not what was sealed, with what it was and what it is."""
    for name, was in seal.files.items():
        path = stage / name
        found = Sum(*files.digest(path)) if files.exists(path) else None
        if found != was:
            yield path, was, found


def _only(rows: Sequence[T], path: Path) -> T:
    """The row of a file that has one; UsageError when it is another file."""
    if len(rows) != 1:
        raise damaged(path, 1, f"{len(rows)} rows where one belongs")
    return rows[0]
