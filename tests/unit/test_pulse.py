"""The sign of life: what `progress.json` says while phases go on, and what is told from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from erpo_ray.commands.status import line
from erpo_ray.pulse import FILE, Beat, Going, Pulse, Tick, beat


class Clock:
    at = 100.0

    def __call__(self) -> float:
        return self.at


@contextmanager
def silent(name: str, total: int) -> Iterator[Tick]:
    yield lambda number: None


def test_a_phase_is_told_with_what_was_there_before_apart_from_its_rate(tmp_path: Path) -> None:
    clock = Clock()
    pulse = Pulse(tmp_path, clock, now=lambda: 5000.0)
    with pulse.phase(silent)("01-prefer: rollouts", 480) as tick:
        tick(80)
        assert beat(tmp_path) == Beat(5000.0, (Going("01-prefer: rollouts", 80, 480, 80, 0.0),))
        clock.at += 10
        tick(20)
        (going,) = beat(tmp_path).phases  # type: ignore[union-attr]
    # 20 in 10 s, 380 to go.
    assert (going.done, going.rate, going.left_s) == (100, 2.0, 190.0)
    assert line(going) == "01-prefer: rollouts 100/480, 2.0/s, 3:10 left"
    assert beat(tmp_path) == Beat(5000.0, ())


def test_it_is_not_written_at_every_tick(tmp_path: Path) -> None:
    clock = Clock()
    with Pulse(tmp_path, clock).phase(silent)("rollouts", 10) as tick:
        tick(0)
        clock.at += 1
        tick(1)
        assert beat(tmp_path).phases[0].done == 0  # type: ignore[union-attr]
        clock.at += 1
        tick(1)
        assert beat(tmp_path).phases[0].done == 2  # type: ignore[union-attr]


def test_training_goes_on_beside_a_phase_and_ends_with_its_last_step(tmp_path: Path) -> None:
    clock = Clock()
    told: list[int] = []
    pulse = Pulse(tmp_path, clock)
    steps = pulse.steps(lambda step, steps, metrics: told.append(step))
    with pulse.phase(silent)("rollouts", 10) as tick:
        tick(0)
        for step in (3, 4, 5):
            steps(step, 5, {})
            clock.at += 4
            if step == 4:
                tick(1)
                assert [(g.name, g.done, g.rate) for g in beat(tmp_path).phases] == [  # type: ignore[union-attr]
                    ("rollouts", 1, 1 / 8),
                    ("training", 4, 1 / 8),
                ]
        assert [g.name for g in beat(tmp_path).phases] == ["rollouts"]  # type: ignore[union-attr]
    assert told == [3, 4, 5]


def test_a_phase_that_fails_leaves_no_sign_of_going_on(tmp_path: Path) -> None:
    with pytest.raises(ValueError), Pulse(tmp_path).phase(silent)("rollouts", 10) as tick:
        tick(1)
        raise ValueError
    assert beat(tmp_path).phases == ()  # type: ignore[union-attr]


def test_without_progress_there_is_no_rate() -> None:
    assert line(Going("rollouts", 0, 10, 0, 3.0)) == "rollouts 0/10"
    assert Going("rollouts", 4, 10, 4, 3.0).left_s is None


def test_a_directory_that_takes_no_file_stops_no_run(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with Pulse(gone).phase(silent)("rollouts", 10) as tick:
        tick(1)
    assert beat(gone) is None


@pytest.mark.parametrize("held", [b"", b'{"written": 1', b"[]"])
def test_a_sign_that_is_not_whole_is_none(tmp_path: Path, held: bytes) -> None:
    (tmp_path / FILE).write_bytes(held)
    assert beat(tmp_path) is None
