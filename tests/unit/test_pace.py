"""How long a worker may stand still: thirty seconds at most machines, longer where that is how slow they are."""

from __future__ import annotations

import pytest

from erpo_ray.cluster.pace import FIRST_S, PATIENCE, STALL_S, Pace


def begun(workers: int = 1) -> Pace:
    """A pass whose workers drew their first token within a second."""
    pace = Pace(workers)
    for worker in range(workers):
        pace.asked(worker, 0.0)
        pace.told(worker, 5, False, 1.0)
    return pace


def test_a_worker_that_draws_stands_never_still() -> None:
    pace = begun()
    for second in range(2, 200):
        pace.told(0, 5 + second, False, float(second))
        assert pace.stands(0, second + STALL_S - 1) == 0


def test_a_worker_that_says_nothing_stands_still() -> None:
    pace = begun()
    assert pace.stands(0, 1 + STALL_S) == 0
    assert pace.stands(0, 2 + STALL_S) == pytest.approx(1 + STALL_S)
    assert pace.tokens(0) == 5


def test_answers_without_a_new_token_are_no_sign_of_life() -> None:
    pace = begun()
    for second in range(2, 40):
        pace.told(0, 5, False, float(second))
    assert pace.stands(0, 40.0) == pytest.approx(39)


def test_what_is_finished_without_a_token_counts() -> None:
    pace = begun()
    pace.told(0, 5, True, 30.0)
    assert pace.stands(0, 40.0) == 0


def test_a_worker_that_does_not_count_gets_on_with_every_answer() -> None:
    pace = begun()
    pace.told(0, None, False, 30.0)
    assert pace.stands(0, 40.0) == 0


def test_the_first_token_may_take_longer_and_so_may_that_of_another_in_its_place() -> None:
    pace = begun(2)
    pace.asked(0, 0.0)
    pace.replaced(1, 0.0)
    assert pace.stands(1, FIRST_S) == 0
    assert pace.stands(1, FIRST_S + 1)


def test_a_slow_machine_is_given_longer_by_what_was_seen_of_any_worker() -> None:
    pace = begun(2)
    pace.told(1, 9, False, 41.0)
    assert pace.stands(0, 1 + PATIENCE * 40) == 0
    assert pace.stands(0, 2 + PATIENCE * 40)


def test_the_start_of_an_engine_says_nothing_about_the_speed_of_the_others() -> None:
    pace = begun(2)
    pace.replaced(1, 1.0)
    pace.asked(1, 499.0)
    pace.told(1, 3, False, 500.0)
    assert pace.stands(1, 500.0 + STALL_S) == 0
    assert pace.stands(1, 501.0 + STALL_S)


def test_time_at_rest_does_not_count() -> None:
    pace = begun()
    pace.asked(0, 1000.0)
    assert pace.stands(0, 1000.0 + STALL_S) == 0
