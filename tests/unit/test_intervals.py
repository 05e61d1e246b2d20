"""Intervals over prompts: figures by hand, what clusters change, degenerate rows, and how often they hold the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erpo_ray.evaluate.intervals import (
    FEW,
    balanced,
    cluster_sums,
    constant,
    mean,
    origin,
    proportion,
    resampled,
    share,
)
from erpo_ray.types import Rate

Z2 = 1.959963984540054**2


def ids(*sizes: int) -> list[str]:
    """Ids of so many rows of each prompt, as attack templates write them."""
    return [f"p{prompt}~t{row}" for prompt, size in enumerate(sizes) for row in range(size)]


def test_the_prompt_of_a_row() -> None:
    assert [origin(id) for id in ("a", "a~role_play", "a~t1~turn2", "~odd")] == ["a", "a", "a", "~odd"]
    assert cluster_sums([1.0, 2.0, 4.0, 8.0], ["b", "a~x", "b~turn2", "a"]) == [5.0, 10.0]


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 10, 0.0, 0.277533), (5, 10, 0.236593, 0.763407), (10, 10, 0.722467, 1.0), (94, 100, 0.875232, 0.972214)],
)
def test_one_row_a_prompt_has_the_interval_of_wilson(hits: int, n: int, low: float, high: float) -> None:
    rate = share([row < hits for row in range(n)], ids(*[1] * n))
    assert rate == proportion(hits, n)
    assert (rate.value, rate.n) == (hits / n, n)
    assert (rate.low, rate.high) == pytest.approx((low, high), abs=1e-6)


def test_a_share_over_clusters_by_hand() -> None:
    """Hits 2, 2, 1, 0 of 2: p = 5/8, v = 4/3 * 2.75 / 64, worth 4.0909 rows; t(.975, 3) = 3.182446."""
    rate = share([True, True, True, True, True, False, False, False], ids(2, 2, 2, 2))
    assert rate == Rate(0.625, pytest.approx(0.117789, abs=1e-5), pytest.approx(0.954139, abs=1e-5), 8)
    alone = proportion(5, 8)
    assert rate.low < alone.low and alone.high < rate.high


def test_rows_that_add_nothing_do_not_narrow_a_share() -> None:
    """Of 40 prompts 4 rows that agree each are worth 40 rows (n - 1 of them in v), and those of 40 others 160."""
    once = [index % 3 == 0 for index in range(40)]
    four = share([value for value in once for _ in range(4)], ids(*[4] * 40))
    one = share(once, ids(*[1] * 40))
    assert (four.value, four.n) == (one.value, 160)
    assert 1.0 < (four.high - four.low) / (one.high - one.low) < 1.1
    assert (four.high - four.low) > 1.8 * (proportion(56, 160).high - proportion(56, 160).low)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize(("sizes", "worth"), [((4, 4, 4), 3.0), ((1, 3), 1.6), ((5,), 1.0)])
def test_a_share_of_0_or_1_is_worth_its_prompts(value: float, sizes: tuple[int, ...], worth: float) -> None:
    rate = share([value] * sum(sizes), ids(*sizes))
    away = Z2 / (worth + Z2)
    assert (rate.low, rate.high) == pytest.approx((1 - away, 1.0) if value else (0.0, away))


def test_a_single_prompt_says_little() -> None:
    rate = share([True, True, False, False], ids(4))
    assert (rate.value, rate.n) == (0.5, 4)
    assert (rate.low, rate.high) == pytest.approx((0.054618, 0.945382), abs=1e-5)


def test_clusters_that_are_all_alike_are_worth_their_rows_at_most() -> None:
    """Each prompt has one hit of two: v is 0. t(.975, 9) = 2.262157 in Wilson's formula for 20 rows."""
    rate = share([True, False] * 10, ids(*[2] * 10))
    half = (2.262157**2 / 20 * 0.25 + 2.262157**4 / 1600) ** 0.5 / (1 + 2.262157**2 / 20)
    assert (rate.low, rate.high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)


def test_no_rows() -> None:
    assert share([], []) == Rate(0.0, 0.0, 1.0, 0)
    assert mean([], []) == Rate(0.0, 0.0, 0.0, 0)


def test_one_row_a_prompt_has_the_interval_of_student() -> None:
    rate = mean([1.0, 2.0, 3.0, 4.0], ids(1, 1, 1, 1))
    assert (rate.value, rate.low, rate.high, rate.n) == pytest.approx((2.5, 0.445739, 4.554261, 4), abs=1e-6)
    assert mean([-1.0, 1.0, 1.0], ids(1, 1, 1), -1.0, 1.0) == Rate(pytest.approx(1 / 3), -1.0, 1.0, 3)


def test_a_mean_over_clusters_by_hand() -> None:
    """Rows (1, 3) and (5): mean 3, v = 2 * ((4 - 6)^2 + (5 - 3)^2) / 9, t(.975, 1) = 12.706205."""
    rate = mean([1.0, 3.0, 5.0], ids(2, 1))
    half = 12.706205 * (16 / 9) ** 0.5
    assert (rate.value, rate.low, rate.high, rate.n) == pytest.approx((3.0, 3 - half, 3 + half, 3), abs=1e-4)


def test_what_does_not_vary_has_a_width_all_the_same() -> None:
    """0 of 60 prompts say otherwise: at most 6.0% do, and they may lie at either end of the scale."""
    q = Z2 / (60 + Z2)
    for measure in (mean, resampled):
        rate = measure([0.5] * 60, ids(*[1] * 60), -1.0, 1.0)
        assert (rate.value, rate.low, rate.high) == pytest.approx((0.5, 0.5 - 1.5 * q, 0.5 + 0.5 * q))
        none = measure([0.0] * 60, ids(*[1] * 60), 0.0, 1.0)
        assert (none.low, none.high) == pytest.approx((0.0, proportion(0, 60).high))
    # Twice as many rows of the same prompts say nothing new.
    assert mean([0.5] * 120, ids(*[2] * 60), -1.0, 1.0) == constant(0.5, 120, 60, -1.0, 1.0)
    assert mean([0.0, 1.0] * 60, ids(*[2] * 60), 0.0, 1.0) == constant(0.5, 120, 60, 0.0, 1.0)


def test_a_scale_without_end_and_a_single_row() -> None:
    q = Z2 / (1 + Z2)
    assert mean([80.0], ["p"], 0.0) == Rate(80.0, pytest.approx(80 - 80 * q), pytest.approx(80 + 80 * q), 1)
    assert mean([0.0], ["p"], 0.0) == Rate(0.0, 0.0, pytest.approx(q), 1)
    assert mean([0.3], ["p"], -1.0, 1.0).high == pytest.approx(0.3 + 0.7 * q)


def test_a_bootstrap_draws_prompts_with_all_their_rows() -> None:
    rng = np.random.default_rng(6)
    once = rng.exponential(1, 60)
    doubled = resampled(np.repeat(once, 2).tolist(), ids(*[2] * 60))
    alone = resampled(once.tolist(), ids(*[1] * 60))
    assert (doubled.n, alone.n) == (120, 60)
    assert (doubled.value, doubled.low, doubled.high) == pytest.approx((alone.value, alone.low, alone.high), rel=1e-6)
    assert alone.high - alone.value > 1.1 * (alone.value - alone.low)


def test_a_bootstrap_of_few_prompts_is_a_t_interval() -> None:
    values = [float(value) for value in range(FEW)]
    assert resampled(values[1:], ids(*[1] * (FEW - 1))) == mean(values[1:], ids(*[1] * (FEW - 1)))
    assert resampled(values, ids(*[1] * FEW)) != mean(values, ids(*[1] * FEW))


def test_the_balanced_score_has_arms_of_its_own() -> None:
    """(.9 + .8) / 2, below hypot(.04, .03) / 2, above hypot(.02, .02) / 2."""
    rate = balanced(Rate(0.9, 0.86, 0.92, 50), Rate(0.8, 0.77, 0.82, 60))
    assert (rate.value, rate.low, rate.n) == (pytest.approx(0.85), pytest.approx(0.825), 50)
    assert rate.high == pytest.approx(0.85 + 0.5 * (2 * 0.02**2) ** 0.5)
    assert balanced(Rate(0.9, 0.8, 1.0, 9), Rate(0.0, 0.0, 1.0, 0)) == Rate(0.45, 0.0, 1.0, 0)
    perfect = balanced(proportion(30, 30), proportion(40, 40))
    assert perfect.high == 1.0 and 0.9 < perfect.low < 0.95


@settings(max_examples=200)
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=12))
def test_every_share_lies_within_an_interval_that_has_a_width(rows: list[list[bool]]) -> None:
    flat, names = [value for row in rows for value in row], ids(*map(len, rows))
    rate = share(flat, names)
    assert 0 <= rate.low <= rate.value <= rate.high <= 1 and rate.high - rate.low > 0.05
    mirrored = share([not value for value in flat], names)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - rate.high, 1 - rate.low))
    found = mean([float(value) for value in flat], names, 0.0, 1.0)
    assert found.low <= found.value + 1e-12 and found.value <= found.high + 1e-12 and found.high - found.low > 0.02


SETS = 2000


def covered(found: Sequence[Rate], truth: float) -> float:
    return sum(rate.low <= truth <= rate.high for rate in found) / len(found)


@pytest.mark.parametrize(
    ("prompts", "samples", "a", "b"),
    [(30, 4, 0.8, 0.4), (10, 4, 0.8, 0.4), (60, 2, 2.0, 2.0), (100, 3, 0.2, 1.8), (30, 4, 0.4, 3.6)],
)
def test_shares_of_clusters_hold_the_truth_about_19_times_in_20(prompts: int, samples: int, a: float, b: float) -> None:
    """Each prompt has a chance of its own, Beta(a, b); rows counted as independent hold the truth too seldom."""
    rng = np.random.default_rng(7)
    names, found, naive = ids(*[samples] * prompts), [], []
    for _ in range(SETS):
        rows = (rng.random((prompts, samples)) < rng.beta(a, b, (prompts, 1))).ravel().tolist()
        found.append(share(rows, names))
        naive.append(proportion(sum(rows), len(rows)))
    assert 0.92 <= covered(found, a / (a + b)) <= 0.98
    assert covered(naive, a / (a + b)) < 0.925


def test_means_of_clusters_hold_the_truth_about_19_times_in_20() -> None:
    """Of 1 to 4 rows a prompt."""
    rng = np.random.default_rng(8)
    found = []
    for _ in range(SETS):
        sizes = rng.integers(1, 5, 25)
        rows = np.repeat(rng.normal(0.3, 1, 25), sizes) + rng.normal(0, 0.5, sizes.sum())
        found.append(mean(rows.tolist(), ids(*sizes.tolist())))
    assert 0.92 <= covered(found, 0.3) <= 0.98


def test_balanced_scores_hold_the_truth_about_19_times_in_20() -> None:
    rng = np.random.default_rng(9)
    harmful, benign = (rng.binomial(n, p, SETS) for n, p in ((40, 0.9), (80, 0.8)))
    found = [balanced(proportion(int(h), 40), proportion(int(b), 80)) for h, b in zip(harmful, benign, strict=True)]
    assert 0.92 <= covered(found, 0.85) <= 0.98


def test_differences_of_few_prompts_hold_the_truth_about_19_times_in_20() -> None:
    """Paired outcomes of 15 prompts: 15% turn one way and 30% the other."""
    rng = np.random.default_rng(10)
    drawn = rng.choice([-1.0, 0.0, 1.0], (SETS, 15), p=[0.15, 0.55, 0.3])
    found = [resampled(rows.tolist(), ids(*[1] * 15), -1.0, 1.0) for rows in drawn]
    assert 0.92 <= covered(found, 0.15) <= 0.98
