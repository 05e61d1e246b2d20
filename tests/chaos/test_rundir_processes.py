"""Real processes: SIGKILL at every failpoint, two drivers at once, a driver that was passed over."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rundir_driver import CONFIG, INPUTS, WANTED, NoSync, drive, outcome

from erpo_ray.errors import RunFailed, UsageError
from erpo_ray.rundir import Files, RunDir, failpoints
from erpo_ray.rundir import files as layer
from erpo_ray.rundir import ledger as ledger_module
from erpo_ray.rundir import run as run_module
from erpo_ray.rundir import stage as stage_module
from erpo_ray.rundir.lease import Lease
from erpo_ray.rundir.lines import verify
from erpo_ray.types import Candidate

UNIT = Path(__file__).parents[1] / "unit"


def program(*arguments: str | Path, **settings) -> subprocess.Popen[str]:
    command = [sys.executable, str(UNIT / "rundir_driver.py"), *map(str, arguments)]
    path = os.pathsep.join([str(UNIT.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, **settings.pop("environment", {})}
    return subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def answers(*arguments: str | Path) -> list[dict]:
    out, errors = program(*arguments).communicate(timeout=500)
    assert errors == ""
    return [json.loads(line) for line in out.splitlines()]


def test_a_driver_killed_anywhere_continues_and_samples_nothing_twice(
    tmp_path: Path, promise: Callable[[str], None]
) -> None:
    drive(NoSync(), tmp_path / "whole")
    want = outcome(Files(), tmp_path / "whole")
    killed = answers("sweep", tmp_path)
    assert [case["point"] for case in killed][: len(failpoints.NAMES)] == list(failpoints.NAMES)
    for case in killed:
        root = Path(case["root"])
        assert (case["first"], case["second"]) == (-signal.SIGKILL, 0), case["point"]
        drawn = [
            log.read_text().split() if log.exists() else [] for log in map(root.with_suffix, (".first", ".second"))
        ]
        assert not set(case["kept"]) & set(drawn[1]), case["point"]
        assert set(case["kept"]) | set(drawn[1]) == set(WANTED), case["point"]
        assert len(drawn[0]) + len(drawn[1]) == len(WANTED), case["point"]
        assert outcome(Files(), root) == want, case["point"]
    promise(f"SIGKILL at every failpoint: faults {len(killed)}  lost 0  doubled 0  pairs equal yes")


def test_the_list_of_failpoints_is_that_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: set[str] = set()
    for module in (layer, ledger_module, stage_module, run_module):
        monkeypatch.setattr(module, "failpoint", passed.add)
    drive(NoSync(), tmp_path / "run")
    assert passed == set(failpoints.NAMES)


def test_of_two_drivers_one_wins_and_the_other_names_it(
    tmp_path: Path, scale: Callable[[int, int], int], promise: Callable[[str], None]
) -> None:
    races = scale(10, 200)
    for results in answers("race", tmp_path, str(races)):
        (winner,) = (pid for pid, said in results.items() if said == "won")
        (loser,) = (said for said in results.values() if said != "won")
        assert re.fullmatch(
            rf"UsageError: \S+ is being driven by pid {winner} on \S+ since \d{{4}}-\S+; wait until it ends, .*", loser
        )
    promise(f"two drivers at once: races {races}  foreign writes 0")


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = program("hold", tmp_path / "run")
    assert process.stdout is not None and process.stdout.readline() == "open\n"
    yield process
    process.kill()
    process.communicate()


def test_a_stopped_driver_still_holds_its_run_and_a_killed_one_does_not(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(UsageError, match=f"driven by pid {holder.pid} "):
        RunDir.open(tmp_path / "run", CONFIG, inputs=INPUTS)
    holder.kill()
    holder.wait()
    with RunDir.open(tmp_path / "run", CONFIG, inputs=INPUTS):
        assert json.loads((tmp_path / "run" / "lease.json").read_text())["row"]["epoch"] == 2


def test_a_second_driver_changes_nothing(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    root = tmp_path / "run"
    before = {path: path.read_bytes() for path in root.iterdir()}
    with pytest.raises(UsageError):
        RunDir.open(root, CONFIG, inputs=INPUTS)
    assert {path: path.read_bytes() for path in root.iterdir()} == before


def candidate(key: str, text: str = "") -> Candidate:
    return Candidate(key, "p", 0, (1,), text, "stop", "v")


def test_a_driver_that_was_passed_over_can_make_nothing_final(tmp_path: Path) -> None:
    """Where locks do not hold (here: the lock file deleted) the epoch does."""
    root = tmp_path / "run"
    old = RunDir.open(root, CONFIG)
    stage = old.stage("01-prefer")
    rows = stage.ledger("candidates.jsonl", Candidate)
    rows.append(candidate("a", "old"))
    rows.sync()
    (root / ".lease.lock").unlink()
    new = RunDir.open(root, CONFIG)
    current = new.stage("01-prefer").ledger("candidates.jsonl", Candidate)

    rows.append(candidate("b", "old, too late"))
    for act in (
        rows.sync,
        lambda: stage.once("pairs.jsonl", Candidate, lambda: []),
        lambda: stage.directory("policy", lambda out, work: {}),
        lambda: old.append_metric({"stage": "x"}),
        lambda: old.point_policy(root / "stages"),
        lambda: old.stage("02-prefer").ledger("candidates.jsonl", Candidate),
    ):
        with pytest.raises(
            RunFailed, match=rf"{root} was taken over by pid {os.getpid()} on .* stops and writes nothing"
        ):
            act()
    assert not (root / "stages" / "01-prefer" / "policy").exists()

    assert current.append(candidate("b", "new"))
    again = new.stage("01-prefer").ledger("candidates.jsonl", Candidate)
    assert [(row.id, row.text) for row in again] == [("a", "old"), ("b", "new")]


FENCES = {
    "epochs of the lease not compared": (Lease, "check", lambda self: None),
    "epochs of lines not compared": (ledger_module, "verify", lambda line: _same_epoch(line)),
}


def _same_epoch(line: bytes):
    if verified := verify(line):
        verified[0].epoch = 1
    return verified


@pytest.mark.parametrize("name", FENCES)
def test_each_fence_is_missed_when_it_is_gone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, promise: Callable[[str], None]
) -> None:
    place, attribute, replacement = FENCES[name]
    monkeypatch.setattr(place, attribute, replacement)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test_a_driver_that_was_passed_over_can_make_nothing_final(tmp_path)
    promise(f"safeguard removed and missed: {name}")


def test_the_lock_is_missed_when_it_is_gone(
    holder: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, promise: Callable[[str], None]
) -> None:
    monkeypatch.setattr(Files, "lock", lambda self, path: os.open(path, os.O_RDWR))
    with pytest.raises(pytest.fail.Exception):
        test_a_second_driver_changes_nothing(holder, tmp_path)
    promise("safeguard removed and missed: the lock of a run")
