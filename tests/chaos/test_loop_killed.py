"""SIGKILL of a real driver in every phase: the same command continues, samples nothing twice, ends with equal pairs."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from loop_driver import drive, ids
from test_loop import drawn_from

PAIRS = [f"run/stages/0{number}-prefer/pairs.jsonl" for number in (1, 2, 3)]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("unbroken")
    assert drive(place).code == 0
    return place


@pytest.fixture(scope="module")
def unbroken_ahead(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("ahead")
    assert drive(place, overlap="next_round").code == 0
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
    assert killed.code == -signal.SIGKILL, killed.errors
    before = ids(place)
    continued = drive(place, overlap=overlap)
    assert continued.code == 0, continued.errors
    assert not before & set(continued.sampled), "a candidate on disk was sampled again"
    assert before <= ids(place)
