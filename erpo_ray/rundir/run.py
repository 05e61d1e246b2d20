"""The run directory: everything a run is, so that the same command continues it."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from erpo_ray.config import Config
from erpo_ray.errors import EnvironmentFault, ErpoError, UsageError
from erpo_ray.rundir.failpoints import failpoint
from erpo_ray.rundir.files import Files, inside, temporary
from erpo_ray.rundir.fingerprint import Fingerprint, config_yaml, differences, environment, fingerprint
from erpo_ray.rundir.lease import FILE as LEASE
from erpo_ray.rundir.lease import LOCK, Lease
from erpo_ray.rundir.plain import PlainLines
from erpo_ray.rundir.stage import StageDir
from erpo_ray.telemetry import Span
from erpo_ray.types import UNREADABLE, encode, identity
from erpo_ray.usage import Actor

T = TypeVar("T")
_log = logging.getLogger(__name__)
State = Literal["running", "done", "failed", "interrupted"]

_BEGUN = {LOCK, LEASE, "config.yaml", "environment.json", "fingerprint.json"}
"""What a directory may hold whose first start was cut short before its fingerprint was there."""


class RunDir:
    """One driver's hold on a run directory. Use `open`, and `close` (or `with`) at the end.

    `id` names the run in the ids of candidates: it follows from the name and the fingerprint, so that equal runs in two
    directories give equal ids and a row that strayed in from another run matches nothing.
    """

    def __init__(self, files: Files, path: Path, lease: Lease, run_id: str, note: Callable[[str], None]) -> None:
        self.files, self.path, self.id = files, path, run_id
        self._lease, self._note = lease, note
        self._where = {"stage": "", "phase": ""}
        self._rows = PlainLines(files, path / "metrics.jsonl", note, create=True)
        self._metrics = _metrics(self._rows)
        self._spans = PlainLines(files, path / "phases.jsonl", note)
        self._actors = PlainLines(files, path / "actors.jsonl", note)

    @classmethod
    def open(
        cls,
        path: str | Path,
        config: Config,
        *,
        inputs: Mapping[str, str] | None = None,
        need_bytes: int = 0,
        files: Files | None = None,
        note: Callable[[str], None] = _log.warning,
        option: str = "--run-dir",
    ) -> RunDir:
        """Create the run or continue it. `option` is what names the directory on the command line.

        `inputs` names what the configuration refers to, by hash. UsageError for a directory that is something else,
        belongs to another configuration, or is driven by a live process; EnvironmentFault when it cannot be written or
        there is no room for `need_bytes` in all (what its stages hold counts). A refused directory is left as it was.
        """
        root, files = Path(os.path.abspath(path)), files or Files()
        mine = fingerprint(config, inputs or {})
        _require_ours(files, root, option)
        _require_same(files, root, mine, option)
        _require_space(files, root, need_bytes, option)
        files.ensure(root)
        lease = Lease(files, root)
        try:
            _require_same(files, root, mine, option)  # another driver may have begun the run a moment ago
            if not files.exists(root / "config.yaml"):
                files.put(root / "config.yaml", config_yaml(config))
            _put_environment(files, root, note)
            if not files.exists(root / "fingerprint.json"):
                files.put(root / "fingerprint.json", _pretty(mine))
            run = cls(files, root, lease, identity(config.name, mine.sha256), note)
        except BaseException:
            lease.release()
            raise
        run.status("running")
        return run

    def __enter__(self) -> RunDir:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the lease back."""
        self._rows.close()
        self._spans.close()
        self._actors.close()
        self._lease.release()

    def stage(self, name: str) -> StageDir:
        """The directory of one stage, `name` as in `01-prefer`."""
        return StageDir(self.files, inside(self.path / "stages", name), self._lease, self._note)

    def append_metric(self, row: Mapping[str, Any]) -> bool:
        """A line of metrics.jsonl. False when there is one with its `stage` (and `step`, if it has one) already.

        UsageError when that one says something else: what it tells of is sealed, and gives the same figures each time.
        """
        key, line = _metric_key(row), msgspec.json.encode(row)
        if (there := self._metrics.get(key)) is not None:
            _require_told(self._rows.path, there, msgspec.json.decode(line))
            return False
        self._lease.check()
        self._rows.append(line)
        failpoint("metrics:appended")
        self._rows.sync()
        self._metrics[key] = msgspec.json.decode(line)
        return True

    def status(
        self,
        state: State,
        *,
        stage: str | None = None,
        phase: str | None = None,
        exit_code: int | None = None,
        message: str = "",
        **more: Any,
    ) -> None:
        """Replace status.json. `stage` and `phase` stay as they were told last.

        A status that cannot be written is only noted: it must not hide the error it may be telling.
        """
        self._where |= {k: v for k, v in (("stage", stage), ("phase", phase)) if v is not None}
        row = {
            "state": state,
            "exit_code": exit_code,
            **self._where,
            "message": message,
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            **more,
        }
        try:
            self._lease.check()
            self.files.put(self.path / "status.json", _pretty(row))
        except ErpoError as error:
            self._note(f"status.json is out of date: {error}")

    @contextmanager
    def timed(self, stage: str, phase: str) -> Iterator[None]:
        """Tell that the run is in this phase, and add the seconds of the block to phases.jsonl, however it ends.

        Seconds that cannot be written are only noted: they must not hide how the block ended.
        """
        self.status("running", stage=stage, phase=phase)
        begun = time.monotonic()
        try:
            yield
        finally:
            span = Span(stage, phase, round(time.monotonic() - begun, 3))
            try:
                self._lease.check()
                self._spans.append(encode(span))
                failpoint("phases:appended")
                self._spans.sync()
            except ErpoError as error:
                self._note(f"phases.jsonl lacks {span.seconds:.0f} s of {phase} in {stage}: {error}")

    def tell_actors(self, rows: Iterable[Actor]) -> None:
        """Lines of actors.jsonl, which no run needs: those that cannot be written are only noted."""
        try:
            self._lease.check()
            for row in rows:
                self._actors.append(encode(row))
            self._actors.sync()
        except ErpoError as error:
            self._note(f"actors.jsonl lacks a stage: {error}")

    def publish(self, name: str, data: bytes) -> None:
        """A file of the run that is made from the others and replaced as it grows out of date, such as a page."""
        self._lease.check()
        self.files.put(inside(self.path, name), data)

    def point_policy(self, path: Path) -> None:
        """Let `policy` lead to `path` (relative, so that the run directory can be moved), replaced in one step."""
        self._lease.check()
        link = self.path / "policy"
        growing = temporary(link)
        if self.files.exists(growing):
            self.files.remove(growing)
        failpoint("pointer:before")
        self.files.symlink(os.path.relpath(path, self.path), growing)
        self.files.rename(growing, link)
        failpoint("pointer:renamed")
        self.files.syncdir(self.path)


def _metrics(rows: PlainLines) -> dict[str, dict[str, Any]]:
    found = {}
    for number, line in enumerate(rows.lines, 1):
        try:
            row = msgspec.json.decode(line, type=dict[str, Any])
        except UNREADABLE as error:
            raise UsageError(f"{rows.path}, line {number}: {error}; correct or delete that line") from error
        if (key := _metric_key(row)) in found:
            raise UsageError(f"{rows.path}, line {number}: a second row of stage {key}; delete that line")
        found[key] = row
    return found


def _metric_key(row: Mapping[str, Any]) -> str:
    return " step ".join(str(row[name]) for name in ("stage", "step") if name in row)


def _require_told(path: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """A figure that only the row of now has is one that a later version added."""
    for name, value in there.items():
        if value != now.get(name):
            raise UsageError(
                f"{path}, stage {now.get('stage')}: {name} is {value}, but the stage gave {now.get(name)}; "
                "delete that line and start the same command again"
            )


def _pretty(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _decoded(data: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(data, type=kind)
    except UNREADABLE:
        return None


def _require_ours(files: Files, root: Path, option: str) -> None:
    if not files.exists(root):
        return
    if not files.is_dir(root):
        raise UsageError(f"{root} is a file, not a run directory; use another {option}")
    names = set(files.names(root))
    begun = LOCK in names and names <= _BEGUN | {temporary(root / name).name for name in _BEGUN}
    if names and "fingerprint.json" not in names and not begun:
        raise UsageError(
            f"{root} is not empty and not a run directory (no fingerprint.json; found {', '.join(sorted(names)[:3])}); "
            f"use another {option}"
        )


def _require_same(files: Files, root: Path, mine: Fingerprint, option: str) -> None:
    path = root / "fingerprint.json"
    if not files.exists(path):
        return
    theirs = _decoded(files.read(path), Fingerprint)
    if theirs is None or not theirs.intact():
        raise UsageError(f"{path} is damaged; restore it from a copy, or use another {option}")
    if theirs != mine:
        changed = differences(theirs.config, mine.config)
        inputs = [f"input {line}" for line in differences(theirs.inputs, mine.inputs)]
        what = "an evaluation" if "policy" in theirs.inputs else "a run"
        same = f"continue with its own {root / 'config.yaml'}" if changed else "bring back what was there"
        raise UsageError(
            f"{root} belongs to {what} with {'another configuration' if changed else 'other inputs'}. "
            f"Changed: {'; '.join([*changed, *inputs])}. Use another {option}, or {same}"
        )


def _require_space(files: Files, root: Path, need: int, option: str) -> None:
    place = next(place for place in (root, *root.parents) if files.exists(place))
    stages = root / "stages"
    held = sum(map(files.size, files.below(stages)[0])) if files.exists(stages) else 0
    free = files.free(place)
    if free < need - held:
        raise EnvironmentFault(
            f"{place} has {free / 2**20:.0f} MiB free, the run needs {(need - held) / 2**20:.0f} MiB; "
            f"free space there or use another {option}"
        )


def _put_environment(files: Files, root: Path, note: Callable[[str], None]) -> None:
    path, now = root / "environment.json", environment()
    before = _decoded(files.read(path), dict[str, str]) if files.exists(path) else None
    if before == now:
        return
    if before:
        note(f"the environment changed since the last start: {'; '.join(differences(before, now))}")
    files.put(path, _pretty(now))
