"""How long a training may stand still, who is named for it, and the signs that ranks leave."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from erpo_ray.cluster import vigil
from erpo_ray.cluster.vigil import FIRST_S, LOOK_S, PATIENCE, STEP_S, Hung, Limits, StepPace, Vigil
from erpo_ray.train import signs
from erpo_ray.train.signs import Sign


class Ranks:
    """Two ranks whose every second is looked at; each beats unless it is stopped."""

    def __init__(self, waits_s: float = 0.0) -> None:
        self.now, self.stopped, self.signs = 0.0, set[int](), dict[int, Sign]()
        self.pace = StepPace(Limits(), 0.0, waits_s)

    def pass_(self, seconds: float, every: float = 1.0) -> tuple[float, str]:
        """Seconds until the training was found late, and why; all of them and nothing when it was not."""
        since = self.now
        while self.now - since < seconds:
            self.now += every
            beating = self.signs.keys() - self.stopped
            self.signs |= {rank: replace(self.signs[rank], beats=self.signs[rank].beats + 1) for rank in beating}
            if why := self.pace.look(self.signs, self.now):
                return self.now - since, why
        return seconds, ""

    def all(self, **what: object) -> None:
        for rank in (0, 1):
            self.one(rank, **what)

    def one(self, rank: int, **what: object) -> None:
        was = self.signs.get(rank, Sign(2))
        self.signs[rank] = replace(was, marks=was.marks + 1, **what)


def in_step(step: int, slowest_s: float = 1.0) -> Ranks:
    ranks = Ranks()
    ranks.all(doing="step", step=step, slowest_s=slowest_s)
    ranks.pass_(1)
    return ranks


def test_a_step_is_late_after_two_minutes() -> None:
    ranks = in_step(4)
    for _ in range(5):
        assert ranks.pass_(STEP_S - 1) == (STEP_S - 1, "")
        ranks.all()
        ranks.pass_(1)
    after, why = ranks.pass_(2 * STEP_S)
    assert after == STEP_S + 1
    assert why == "ranks 0, 1 did not get on for 121 s in step 5: alive, so a collective hangs"


def test_a_slow_machine_is_given_thrice_its_slowest_step() -> None:
    ranks = in_step(4, slowest_s=200.0)
    assert ranks.pass_(PATIENCE * 200.0) == (600.0, "")
    assert "for 601 s in step 5" in ranks.pass_(1)[1]


def test_the_rank_that_is_stopped_is_named_though_all_wait_for_it() -> None:
    ranks = in_step(2)
    ranks.stopped = {1}
    # The other gets as far as the next collective.
    ranks.pass_(10)
    ranks.one(0)
    assert ranks.pass_(200)[1] == "rank 1 gave no sign for 132 s in step 3: stopped, or its machine is out of reach"


def test_of_ranks_that_live_the_one_that_is_behind_is_named() -> None:
    ranks = in_step(2)
    ranks.one(0, step=3)
    assert ranks.pass_(200)[1] == "rank 1 did not get on for 121 s in step 3: alive, so a collective hangs"


@pytest.mark.parametrize(("doing", "where"), [("start", "at its start"), ("score", "while it scored rows")])
def test_before_the_first_step_there_is_half_an_hour(doing: signs.Doing, where: str) -> None:
    ranks = Ranks()
    ranks.all(doing=doing)
    ranks.pass_(1)
    assert ranks.pass_(FIRST_S) == (FIRST_S, "")
    assert ranks.pass_(1)[1] == f"ranks 0, 1 did not get on for 1801 s {where}: alive, so a collective hangs"


def test_the_first_step_may_take_half_an_hour_too() -> None:
    assert in_step(0, slowest_s=0.0).pass_(FIRST_S) == (FIRST_S, "")
    # As that of a training that goes on from a checkpoint.
    assert in_step(8, slowest_s=0.0).pass_(FIRST_S) == (FIRST_S, "")


def test_while_one_saves_the_others_are_not_late() -> None:
    ranks = in_step(4)
    ranks.one(0, doing="save")
    ranks.pass_(1)
    assert ranks.pass_(FIRST_S) == (FIRST_S, "")
    ranks.stopped = {0}
    assert ranks.pass_(1)[1].startswith("rank 0 did not get on for 1801 s while it saved step 4: ")


def test_a_rank_that_never_came_is_named() -> None:
    ranks = Ranks()
    ranks.one(1)
    assert ranks.pass_(2 * FIRST_S)[1] == "rank 0 gave no sign for 1801 s after the start of the others"


def test_workers_that_wait_for_room_are_given_that_time_too() -> None:
    ranks = Ranks(waits_s=600.0)
    after, why = ranks.pass_(2 * FIRST_S)
    assert (after, why) == (FIRST_S + 601, "no worker gave a sign for 2401 s after its start")


def test_time_in_which_the_driver_was_stopped_does_not_count() -> None:
    ranks = in_step(4)
    assert ranks.pass_(3600, every=3600) == (3600, "")
    assert ranks.pass_(STEP_S - LOOK_S) == (STEP_S - LOOK_S, "")
    assert ranks.pass_(1)[1]


def test_ranks_in_the_place_of_others_begin_anew() -> None:
    ranks = in_step(4)
    assert ranks.pass_(STEP_S + 1)[1]
    ranks.pace.rest()
    ranks.signs = {}
    assert ranks.pass_(STEP_S + 60) == (STEP_S + 60, "")
    ranks.all()
    assert ranks.pass_(FIRST_S) == (FIRST_S, "")


def test_marks_are_written_and_the_slowest_step_is_that_between_two_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signs, "BEAT_S", 0.01)
    now = 0.0
    monkeypatch.setattr(signs.time, "monotonic", lambda: now)
    with signs.left(tmp_path, 1, 2):
        assert signs.read(tmp_path) == {1: Sign(2)}
        for at, doing, step in (
            *((100.0, "score", 0), (200.0, "step", 4)),
            *((201.0, "step", 4), (207.0, "step", 5), (210.0, "step", 6)),
            *((211.0, "save", 6), (500.0, "step", 6), (502.0, "step", 7)),
        ):
            now = at
            signs.mark(doing, step)
        signs.tell("one")
    found = signs.read(tmp_path)[1]
    assert replace(found, beats=0) == Sign(2, "step", 7, 7.0, 8, 0, ("one",))
    assert found.beats > 0
    signs.mark("step", 9)
    assert signs.read(tmp_path)[1] == found


def test_lines_of_ranks_are_said_once_and_older_signs_count_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signs, "BEAT_S", 0.01)
    clock, said = [0.0], list[str]()
    monkeypatch.setattr(vigil.time, "monotonic", lambda: clock[0])
    with signs.left(tmp_path, 0, 2):
        signs.tell("of an earlier start")
    watch = Vigil(tmp_path, Limits(first_s=60.0), 0.0, said.append)
    watch.require(lambda: False)
    with signs.left(tmp_path, 0, 1):
        signs.tell("checkpoint-4 is passed over")
    for clock[0] in (1.0, 2.0, 30.0, 60.0):
        watch.require(lambda: False)
    assert said == ["checkpoint-4 is passed over"]
    clock[0] = 62.0
    with pytest.raises(Hung, match="rank 0 gave no sign for 61 s at its start"):
        watch.require(lambda: False)
    watch.require(lambda: True)
    clock[0] = 63.0
    watch.require(lambda: False)
