"""SIGKILL of a real driver in every phase: the same command continues, samples nothing twice, ends with equal pairs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_loop import drawn_from

from erpo_ray.rundir import Files, Ledger
from erpo_ray.types import Candidate

DRIVER = Path(__file__).with_name("loop_driver.py")
PAIRS = [f"run/stages/0{number}-prefer/pairs.jsonl" for number in (1, 2, 3)]


def drive(
    place: Path, failpoint: str = "", method: str = "erpo", overlap: str = "none"
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ERPO_FAILPOINT": failpoint, "PYTHONPATH": f"{DRIVER.parent}:{Path.cwd()}"}
    return subprocess.run(
        [sys.executable, str(DRIVER), str(place), method, overlap],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("unbroken")
    assert drive(place).returncode == 0
    return place


@pytest.fixture(scope="module")
def unbroken_ahead(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("ahead")
    assert drive(place, overlap="next_round").returncode == 0
    return place


@pytest.mark.parametrize(
    "failpoint",
    [
        "evaluation_candidates:appended:7",  # while the base model is evaluated
        "candidates:appended:40",  # rollouts
        "verdicts:appended:25",  # judging
        "examples:written",
        "pairs:synced",  # between write and rename
        "policy:written",  # training done, nothing renamed
        "policy:renamed:2",
        "outcome:before:3",
        "stage:sealed:3",
        "pointer:before:2",
    ],
)
def test_killed_and_continued(tmp_path: Path, unbroken: Path, failpoint: str):
    broken(tmp_path, failpoint, "none")
    assert [(tmp_path / name).read_bytes() for name in PAIRS] == [(unbroken / name).read_bytes() for name in PAIRS]


@pytest.mark.parametrize(
    "failpoint",
    [
        "candidates:appended:200",  # the second round's samples are drawn while the first trains
        "verdicts:appended:290",  # and the third's while the second does
        "policy:written:2",  # all of the next round's are there, its training is not
        "outcome:before:3",
        "stage:sealed:3",
    ],
)
def test_killed_one_step_off_and_continued(tmp_path: Path, unbroken_ahead: Path, failpoint: str):
    broken(tmp_path, failpoint, "next_round")
    whole = unbroken_ahead
    assert [(tmp_path / name).read_bytes() for name in PAIRS] == [(whole / name).read_bytes() for name in PAIRS]
    assert drawn_from(tmp_path) == drawn_from(whole) == [{"skill0"}, {"skill1"}, {"skill1"}, {"skill2"}]


def broken(place: Path, failpoint: str, overlap: str) -> None:
    """A run that is killed there and continued to its end."""
    killed = drive(place, failpoint, overlap=overlap)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = ids(place)
    continued = drive(place, overlap=overlap)
    assert continued.returncode == 0, continued.stderr
    assert not before & set(continued.stdout.split()), "a candidate on disk was sampled again"
    assert before <= ids(place)


def ids(place: Path) -> set[str]:
    found = set()
    for path in place.glob("run/stages/*/*candidates.jsonl"):
        whole = path.read_bytes()
        found |= (
            {row.id for row in Ledger(Files(), path, Candidate, read_only=True)} if whole.endswith(b"\n") else set()
        )
    return found
