"""Paired comparison: figures, tests and corrections by hand, degenerate cases, and what holds for any values."""

from __future__ import annotations

import warnings
from math import comb
from random import Random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import t, ttest_1samp

from erpo_ray.evaluate.statistics import compare, holm, mcnemar, mean_difference, permutation
from erpo_ray.types import Rate, decode, encode


def difference(values: list[float]) -> Rate:
    """Of so many prompts."""
    made = mean_difference(values, [f"p{n}" for n in range(len(values))])
    assert made is not None
    return made


@pytest.fixture(autouse=True)
def no_warnings() -> object:
    """Degenerate data must be met before scipy has to warn of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (3, 3, 1.0),
        (0, 5, 2 / 2**5),
        (5, 0, 2 / 2**5),
        (1, 7, 2 * (1 + 8) / 2**8),
        (2, 10, 2 * (1 + 12 + 66) / 2**12),
    ],
)
def test_mcnemar_by_hand(gained: int, lost: int, p: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(p)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_twice_the_smaller_tail(gained: int, lost: int) -> None:
    n = gained + lost
    tail = sum(comb(n, k) for k in range(min(gained, lost) + 1)) / 2**n
    assert mcnemar(gained, lost) == mcnemar(lost, gained) == pytest.approx(min(1.0, 2 * tail))


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([], 1.0),
        ([0.7], 1.0),
        ([0.0, 0.0, 0.0], 1.0),
        ([0.0, 0.0, 5.0], 1.0),
        ([1.0, 1.0], 2 / 4),
        ([1.0, 2.0, 3.0], 2 / 8),
        ([1.0, 2.0, -3.0], 1.0),
        ([3.0, 2.0, -1.0], 2 * 2 / 8),
        ([0.1] * 10, 2 / 2**10),
    ],
)
def test_permutation_by_hand(differences: list[float], p: float) -> None:
    """Of all signs: [3, 2, -1] has mean 4/3, which one other set of signs exceeds ([3, 2, 1])."""
    assert permutation(differences) == pytest.approx(p)


@given(st.lists(st.floats(-10, 10), max_size=8), st.integers(0, 30))
def test_permutation_looks_at_sizes_and_signs_alone(differences: list[float], zeros: int) -> None:
    p = permutation(differences)
    assert 0 < p <= 1
    assert permutation([*differences, *[0.0] * zeros]) == p
    assert permutation([-each for each in differences]) == pytest.approx(p)


def test_permutation_of_many_is_near_the_t_test() -> None:
    values = np.random.default_rng(2).normal(0.2, 1, 300)
    p = permutation(values.tolist())
    assert 0.001 < p < 0.2
    assert p == pytest.approx(ttest_1samp(values, 0).pvalue, rel=0.2)


def test_permutation_of_many_is_never_zero() -> None:
    assert permutation([1.0] * 400) == pytest.approx(2 / 10000)


def test_the_interval_of_a_difference_is_near_that_of_t() -> None:
    values = np.random.default_rng(3).normal(0.3, 1, 200)
    made = difference(values.tolist())
    half = t.ppf(0.975, 199) * values.std(ddof=1) / 200**0.5
    assert made.value == pytest.approx(values.mean())
    assert (made.low, made.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.015)
    assert made.n == 200


def test_the_interval_leans_with_the_data() -> None:
    """BCa of the mean of skewed values reaches further on the side of the long tail."""
    made = difference(np.random.default_rng(4).exponential(1, 60).tolist())
    assert made.high - made.value > 1.1 * (made.value - made.low)


def test_intervals_hold_the_true_difference_about_19_times_in_20() -> None:
    rng = np.random.default_rng(5)
    found = [difference(rng.normal(0.5, 1, 40).tolist()) for _ in range(100)]
    assert 88 <= sum(each.low <= 0.5 <= each.high for each in found) <= 99


@pytest.mark.parametrize("constant", [0.0, 1.0, -2.5, 0.1 + 0.2])
@pytest.mark.parametrize("n", [1, 2, 50])
def test_constant_differences_are_as_wide_as_the_prompts_that_were_not_drawn_may_make_them(
    constant: float, n: int
) -> None:
    """At most z^2 / (n + z^2) of the prompts differ otherwise, by 10 at most."""
    made = mean_difference([constant] * n, [f"p{i}" for i in range(n)], -5.0, 5.0)
    assert made is not None
    assert (made.value, made.n) == (pytest.approx(constant), n)
    q = 3.841459 / (n + 3.841459)
    assert (made.low, made.high) == pytest.approx((constant - q * (constant + 10), constant + q * (10 - constant)))


def test_rounding_is_no_spread() -> None:
    made = mean_difference([0.3 - 0.2, 0.1, 0.4 - 0.3], ["a", "b", "c"], 0.0, 1.0)
    exact = mean_difference([0.1, 0.1, 0.1], ["a", "b", "c"], 0.0, 1.0)
    assert made is not None and exact is not None
    assert (made.low, made.high) == pytest.approx((exact.low, exact.high))


def test_nothing_to_compare() -> None:
    assert mean_difference([], []) is None
    made = compare({"refused": ({"a": True}, {"b": True}), "utility": ({}, {})})
    assert made["refused"].difference is None
    assert (made["refused"].test, made["refused"].p, made["refused"].p_adjusted) == ("mcnemar", 1.0, 1.0)
    assert (made["refused"].only_before, made["refused"].only_after) == (1, 1)
    assert (made["utility"].difference, made["utility"].p) == (None, 1.0)
    assert compare({}) == {}


@settings(max_examples=60)
@example([0.0, 5.583650795248628e-206])
@given(st.lists(st.floats(-100, 100) | st.sampled_from([0.0, 1.0, -1.0]), min_size=1, max_size=30))
def test_any_differences_have_a_finite_interval_on_their_scale(differences: list[float]) -> None:
    made = mean_difference(differences, [f"p{n}" for n in range(len(differences))], 0.0, 100.0)
    assert made is not None
    slack = 1e-9 * max(1.0, *map(abs, differences))
    assert -100 - slack <= made.low <= made.value + slack and made.value - slack <= made.high <= 100 + slack
    assert made.n == len(differences)


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        ({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}, {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}),
        ({"a": 0.5, "b": 0.9}, {"a": 1.0, "b": 1.0}),
        ({"a": 0.02, "b": 0.02}, {"a": 0.04, "b": 0.04}),
        ({"a": 0.7}, {"a": 0.7}),
        ({}, {}),
    ],
)
def test_holm_by_hand(p: dict[str, float], adjusted: dict[str, float]) -> None:
    made = holm(p)
    assert list(made) == list(adjusted)
    assert made == pytest.approx(adjusted)


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8))
def test_holm_keeps_order_and_lies_between_p_and_bonferroni(p: dict[str, float]) -> None:
    made = holm(p)
    for name, each in p.items():
        assert each <= made[name] <= min(1.0, each * len(p))
        assert all(made[name] <= made[other] for other in p if each <= p[other])


def test_a_comparison_by_hand() -> None:
    """Ten prompts in common: five turn to refusing, one away from it; utility rises by 0.1 with every third more."""
    refused = {f"p{n}": n >= 7 for n in range(10)}
    after = {**refused, **{f"p{n}": True for n in range(5)}, "p9": False}
    utility = {f"p{n}": n / 10 for n in range(10)}
    better = {id: each + (0.4 if id in ("p0", "p3", "p6") else 0.1) for id, each in utility.items()}
    made = compare(
        {
            "refused": ({**refused, "old": True}, {**after, "new": False, "newer": True}),
            "utility": (utility, better),
        }
    )
    first, second = made["refused"], made["utility"]
    assert first.difference and second.difference
    assert (first.difference.value, first.difference.n, first.test) == (pytest.approx(0.4), 10, "mcnemar")
    assert (first.gained, first.lost) == (("p0", "p1", "p2", "p3", "p4"), ("p9",))
    assert (first.only_before, first.only_after) == (1, 2)
    assert first.p == pytest.approx(2 * (1 + 6) / 2**6)
    assert first.p_adjusted == first.p
    assert (second.difference.value, second.test) == (pytest.approx(0.19), "permutation")
    # sd .144914 over sqrt(10), t(.975, 9) = 2.262157: half of the width is .103665
    assert (second.difference.low, second.difference.high) == pytest.approx((0.086335, 0.293665), abs=1e-6)
    assert (second.p, second.p_adjusted) == (pytest.approx(2 / 2**10), pytest.approx(4 / 2**10))
    assert (second.gained, second.lost, second.only_before, second.only_after) == ((), (), 0, 0)
    assert decode(encode(first), type(first)) == first


def test_rows_of_one_prompt_turn_together() -> None:
    """Six prompts in two templates each, five of which turn in both: as sure as five prompts, not as ten."""
    before = {f"p{n}~{name}": False for n in range(6) for name in "ab"}
    after = {id: id[1] != "0" for id in before}
    made = compare({"refused": (before, after)})["refused"]
    assert (len(made.gained), made.lost, made.test) == (10, (), "permutation")
    assert made.p == pytest.approx(2 / 2**5)
    assert mcnemar(10, 0) == pytest.approx(2 / 2**10)
    alone = compare({"refused": ({id[:2]: x for id, x in before.items()}, {id[:2]: x for id, x in after.items()})})
    assert (alone["refused"].test, alone["refused"].p) == ("mcnemar", pytest.approx(2 / 2**5))
    found, one = made.difference, alone["refused"].difference
    assert found and one and (found.n, one.n) == (12, 6)
    assert (found.value, found.low, found.high) == pytest.approx((one.value, one.low, one.high))


def test_no_discordant_pairs() -> None:
    outcomes = {"a": True, "b": False, "c": True}
    made = compare({"refused": (outcomes, outcomes)})["refused"]
    q = 3.841459 / (3 + 3.841459)  # none of three turned
    assert made.difference == Rate(0.0, pytest.approx(-q, abs=1e-6), pytest.approx(q, abs=1e-6), 3)
    assert (made.p, made.p_adjusted, made.gained, made.lost) == (1.0, 1.0, (), ())


@settings(max_examples=25)
@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.booleans()),
    st.dictionaries(st.sampled_from("abcdefgh"), st.booleans()),
    st.randoms(use_true_random=False),
)
def test_sides_swap_and_order_does_not_matter(before: dict[str, bool], after: dict[str, bool], random: Random) -> None:
    made = compare({"x": (before, after)})["x"]
    back = compare({"x": (after, before)})["x"]
    assert (back.gained, back.lost, back.p) == (made.lost, made.gained, made.p)
    assert (back.only_before, back.only_after) == (made.only_after, made.only_before)
    shuffled = {id: after[id] for id in random.sample(sorted(after), len(after))}
    assert compare({"x": (before, shuffled)})["x"] == made
    if made.difference:
        assert made.difference.value == pytest.approx((len(made.gained) - len(made.lost)) / made.difference.n)


def test_outcomes_and_numbers_do_not_mix() -> None:
    with pytest.raises(ValueError, match="refused: 1 of 2 values are outcomes, the others numbers"):
        compare({"refused": ({"a": True}, {"a": 0.5})})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_are_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="utility: the value .* of prompt 'b' is not finite"):
        compare({"utility": ({"a": 0.5}, {"a": 0.5, "b": bad})})
