"""Power cuts after every file operation, faults of every file operation, and what the safeguards are worth."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from crash_disk import Disk, PowerCut
from rundir_driver import CONFIG, INPUTS, WANTED, NoSync, drive, outcome

from erpo_ray.errors import EnvironmentFault, UsageError
from erpo_ray.rundir import Files, Ledger, ledger, run
from erpo_ray.rundir import files as layer
from erpo_ray.rundir.fingerprint import fingerprint
from erpo_ray.types import Candidate, Verdict

ROOT = Path("/runs/one")
MINE = fingerprint(CONFIG, INPUTS)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of starts: no YAML, no package versions; group commits small enough to happen."""
    monkeypatch.setattr(run, "config_yaml", lambda config: b"name: driven\n")
    monkeypatch.setattr(run, "environment", lambda: {"python": "3"})
    monkeypatch.setattr(run, "fingerprint", lambda config, inputs: MINE)
    monkeypatch.setattr(ledger, "GROUP_LINES", 3)
    monkeypatch.setattr(ledger, "GROUP_SECONDS", 60.0)


class Sampler:
    """Never the same text twice, as an engine; remembers what it drew."""

    draws = itertools.count()

    def __init__(self) -> None:
        self.drawn: list[str] = []

    def __call__(self, key: str) -> str:
        self.drawn.append(key)
        return f"{key}, draw {next(self.draws)}"


def start(disk: Disk) -> tuple[list[str], set[str], bool]:
    """What a driver sampled, which of it was acknowledged, whether it ended before the power did."""
    sampler, acknowledged = Sampler(), set()
    try:
        drive(disk, ROOT, sampler, acknowledged.add)
    except PowerCut:
        return sampler.drawn, acknowledged, False
    return sampler.drawn, acknowledged, True


def artefacts(disk: Disk) -> dict[str, object]:
    return {name: value for name, value in outcome(disk, ROOT).items() if name not in LEDGERS}


LEDGERS = ("candidates.jsonl", "verdicts.jsonl")


def faults(step: int, compound: tuple[int, ...] = (), tried: list[str] | None = None) -> Iterator[str]:
    """Everything that goes wrong when the power fails after each operation, and again within the restart.

    What was tried is added to `tried`.
    """
    tried = [] if tried is None else tried
    whole = Disk()
    start(whole)
    want = artefacts(whole)
    seen = set()
    for cut in range(1, len(whole.log) + 1, step):
        disk = Disk(cut_at=cut)
        _, acknowledged, _ = start(disk)
        for kind, image in disk.images():
            if (case := (image.state(), frozenset(acknowledged))) in seen:
                continue
            seen.add(case)
            for again in (0, *compound):
                where = f"{kind} after {disk.log[-1]}, then at {again}"
                tried.append(where)
                try:
                    yield from (f"{where}: {fault}" for fault in restarted(image, again, acknowledged, want))
                except (UsageError, EnvironmentFault, FileNotFoundError, KeyError) as error:
                    yield f"{where}: {type(error).__name__} {error}"


def restarted(image: Disk, again: int, acknowledged: set[str], want: dict[str, object]) -> Iterator[str]:
    disk = Disk(image.live, image.data, cut_at=again)
    drawn, more, ended = start(disk)
    if not ended:
        disk = Disk(*next((i.live, i.data) for name, i in disk.images() if name == "unsynced lost"))
        late, *_ = start(disk)
        if twice := (acknowledged | more) & set(late):
            yield f"sampled again: {twice}"
    if twice := acknowledged & set(drawn):
        yield f"sampled again: {twice}"
    if artefacts(disk) != want:
        yield "other artefacts"
    folder = ROOT / "stages" / "01-prefer"
    rows = {row.id: row.text for row in Ledger(disk, folder / LEDGERS[0], Candidate, read_only=True)}
    judged = {row.candidate_id: row.notes[0] for row in Ledger(disk, folder / LEDGERS[1], Verdict, read_only=True)}
    if set(rows) != set(WANTED):
        yield f"lost: {set(WANTED) - set(rows)}"
    if judged != rows:
        yield "a verdict of another text"


def test_power_cut_after_every_operation_loses_nothing(promise: Callable[[str], None]) -> None:
    tried: list[str] = []
    assert list(faults(step=1, tried=tried)) == []
    promise(f"power cuts, each operation: images {len(tried):,}  lost 0  doubled 0  pairs equal yes")


def test_second_power_cut_within_the_restart_loses_nothing(
    scale: Callable[[int, int], int], promise: Callable[[str], None]
) -> None:
    tried: list[str] = []
    assert list(faults(step=scale(4, 1), compound=(2, 9, 30, 47), tried=tried)) == []
    promise(f"power cuts within the restart too: images {len(tried):,}  lost 0  doubled 0  pairs equal yes")


def _unsynced_files(disk: Disk, path: Path, sync=Disk.sync) -> None:
    if disk.is_dir(path) or not path.name.endswith(".tmp"):
        sync(disk, path)


def _unsynced_ledgers(disk: Disk, path: Path, sync=Disk.sync) -> None:
    if path.suffix != ".jsonl":
        sync(disk, path)


def _unsynced_folders(disk: Disk, path: Path, sync=Disk.sync) -> None:
    if not disk.is_dir(path):
        sync(disk, path)


def _unsynced_models(disk: Disk, path: Path, sync=Disk.sync) -> None:
    if ".policy.tmp" not in path.parts or disk.is_dir(path):
        sync(disk, path)


def _in_place(disk: Disk, path: Path, data: bytes) -> None:
    disk.write(path, data)
    disk.sync(path)
    disk.syncdir(path.parent)


def _unordered(ledger: Ledger, *arguments, after=None, begin=Ledger.__init__, **settings) -> None:
    begin(ledger, *arguments, **settings)


def _forgetful(ledger: Ledger, *arguments, begin=Ledger.__init__, **settings) -> None:
    begin(ledger, *arguments, **settings)
    ledger._ids = set()


MUTANTS = {
    "artefacts not synced before their rename": (Disk, "sync", _unsynced_files),
    "ledgers not synced": (Disk, "sync", _unsynced_ledgers),
    "folders not synced": (Disk, "sync", _unsynced_folders),
    "files of a model not synced": (Disk, "sync", _unsynced_models),
    "artefacts written in place": (Disk, "put", _in_place),
    "torn end kept": (Ledger, "_trim", lambda ledger: None),
    "candidate may follow its verdict": (Ledger, "__init__", _unordered),
    "no join by id": (Ledger, "__init__", _forgetful),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_each_safeguard_is_missed_when_it_is_gone(
    name: str, monkeypatch: pytest.MonkeyPatch, promise: Callable[[str], None]
) -> None:
    place, attribute, replacement = MUTANTS[name]
    monkeypatch.setattr(place, attribute, replacement)
    assert next(faults(step=3), None) is not None
    promise(f"safeguard removed and missed: {name}")


class FaultyOS:
    """The `os` of the file layer, where the Nth writing call fails (and all after it, if `lasting`)."""

    CALLS = ("open", "makedirs", "write", "fsync", "replace", "symlink", "truncate", "unlink")

    def __init__(self, nth: int, code: int, lasting: bool) -> None:
        self.nth, self.code, self.lasting, self.count = nth, code, lasting, 0

    def __getattr__(self, name: str):
        call = getattr(os, name)
        return self._counted(name, call) if name in self.CALLS else call

    def _counted(self, name: str, call):
        def counted(*arguments, **settings):
            self.count += 1
            if self.count < self.nth or (self.count > self.nth and not self.lasting):
                return None if name == "fsync" else call(*arguments, **settings)  # a real fsync has nothing to add here
            if name == "write":
                call(arguments[0], arguments[1][: len(arguments[1]) // 2])
            raise OSError(self.code, os.strerror(self.code))

        return counted


@pytest.mark.parametrize(
    ("code", "lasting", "step", "says"),
    [
        (errno.ENOSPC, True, 1, "No space left on device; free space there or use another --run-dir"),
        (errno.EIO, False, 4, "Input/output error; check the disk"),
        (errno.EROFS, True, 5, "Read-only file system; make the folder writable"),
    ],
)
def test_each_failed_file_operation_stops_the_run_and_the_next_start_ends_equal(
    code: int, lasting: bool, step: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive(NoSync(), tmp_path / "whole")
    want = outcome(Files(), tmp_path / "whole")
    nth, stopped, ended = 1, 0, False
    while not ended:
        nth += step
        system, notes = FaultyOS(nth, code, lasting), []
        root = tmp_path / f"{nth}"
        monkeypatch.setattr(layer, "os", system)
        try:
            drive(Files(), root, note=notes.append)
            ended = system.count < nth
            noted = ("status.json is out of date", "phases.jsonl lacks")
            assert ended or any(line.startswith(noted) for line in notes)
        except EnvironmentFault as fault:
            stopped += 1
            assert says in str(fault) and str(tmp_path) in str(fault)
        monkeypatch.setattr(layer, "os", os)
        drive(NoSync(), root)
        assert outcome(Files(), root) == want
    assert stopped > 100 // step


def test_a_full_disk_is_told_with_path_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "os", FaultyOS(2, errno.ENOSPC, lasting=False))
    with pytest.raises(EnvironmentFault, match=f"cannot write 512 bytes to {tmp_path}/.pairs.jsonl.tmp: No space left"):
        Files().put(tmp_path / "pairs.jsonl", b"x" * 512)
    assert not (tmp_path / "pairs.jsonl").exists()


def test_a_path_that_failed_to_sync_is_never_trusted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, path = Files(), tmp_path / "candidates.jsonl"
    files.append(path, b"one\n")
    monkeypatch.setattr(layer, "os", FaultyOS(1, errno.EIO, lasting=False))
    for operation in (lambda: files.sync(path), lambda: files.sync(path), lambda: files.append(path, b"two\n")):
        with pytest.raises(EnvironmentFault, match=f"cannot sync {path}"):
            operation()
    assert path.read_bytes() == b"one\n"
