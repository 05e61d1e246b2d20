"""SIGKILL of a real driver in every phase: the same command continues, samples nothing twice, ends with equal pairs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from erpo_ray.rundir import Files, Ledger
from erpo_ray.types import Candidate

DRIVER = Path(__file__).with_name("loop_driver.py")
PAIRS = "run/stages/02-prefer/pairs.jsonl"


def drive(place: Path, failpoint: str = "", method: str = "erpo") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ERPO_FAILPOINT": failpoint, "PYTHONPATH": f"{DRIVER.parent}:{Path.cwd()}"}
    return subprocess.run(
        [sys.executable, str(DRIVER), str(place), method], env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("unbroken")
    assert drive(place).returncode == 0
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
    killed = drive(tmp_path, failpoint)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = ids(tmp_path)
    continued = drive(tmp_path)
    assert continued.returncode == 0, continued.stderr
    assert not before & set(continued.stdout.split()), "a candidate on disk was sampled again"
    assert before <= ids(tmp_path)
    assert (tmp_path / PAIRS).read_bytes() == (unbroken / PAIRS).read_bytes()


def ids(place: Path) -> set[str]:
    found = set()
    for path in place.glob("run/stages/*/*candidates.jsonl"):
        whole = path.read_bytes()
        found |= (
            {row.id for row in Ledger(Files(), path, Candidate, read_only=True)} if whole.endswith(b"\n") else set()
        )
    return found
