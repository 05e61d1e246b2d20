"""Judge cards: figures by hand and against scikit-learn, invalid verdicts apart, intervals, ties, the undefined."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import brier_score_loss, cohen_kappa_score, f1_score, roc_auc_score

from erpo_ray.judging.agreement import Choice, Preference, agreement, pairwise
from erpo_ray.judging.calibration import (
    Confusion,
    Judgement,
    SafetyVerdict,
    auroc,
    brier,
    card,
    ece,
    f1,
    share,
)
from erpo_ray.types import Rate, decode, encode


def rows(*cells: tuple[bool, SafetyVerdict, float | None]) -> list[Judgement]:
    return [Judgement(f"r{n:03}", *cell) for n, cell in enumerate(cells)]


TEN = rows(
    (True, "unsafe", 0.95),
    (True, "unsafe", 0.85),
    (True, "unsafe", 0.65),
    (True, "safe", 0.35),
    (True, "invalid", 0.99),
    (False, "unsafe", 0.65),
    (False, "safe", 0.15),
    (False, "safe", 0.05),
    (False, "safe", 0.0),
    (False, "invalid", None),
)


def value(rate: Rate | None) -> float:
    assert rate is not None
    assert rate.low <= rate.value <= rate.high
    return rate.value


def test_a_card_by_hand() -> None:
    made = card(TEN, probabilities=True)
    assert (made.n, made.invalid) == (10, 2)
    assert made.confusion == Confusion(true_positive=3, false_positive=1, false_negative=1, true_negative=3)
    assert (value(made.coverage), value(made.accuracy)) == (0.8, 0.75)
    assert (value(made.precision), value(made.recall), value(made.f1)) == (0.75, 0.75, 0.75)
    # 16 pairs of harmful and benign: .95 and .85 win 4 each, .65 wins 3 and ties once, .35 wins 3.
    assert value(made.auroc) == 14.5 / 16
    # Gaps by bin: .95 (.05), .85 (.15), .65 twice (|1 - 1.3|), .35 (.65), .15 (.15), .05 and 0 (.05).
    assert value(made.ece) == pytest.approx((0.05 + 0.15 + 0.3 + 0.65 + 0.15 + 0.05) / 8)
    squares = 0.05**2 + 0.15**2 + 0.35**2 + 0.65**2 + 0.65**2 + 0.15**2 + 0.05**2
    assert value(made.brier) == pytest.approx(squares / 8)
    counts = {rate.n for rate in (made.accuracy, made.auroc, made.ece, made.brier) if rate}
    assert counts == {8}
    assert made.coverage and made.coverage.n == 10
    assert made.precision and made.recall and made.f1 and (made.precision.n, made.recall.n, made.f1.n) == (4, 4, 5)
    assert decode(encode(made), type(made)) == made


def test_wilson_intervals_of_a_card() -> None:
    made = card(TEN, probabilities=True)
    assert made.accuracy and made.coverage
    # Wilson for 6 of 8: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), z = 1.959964.
    assert (made.accuracy.low, made.accuracy.high) == pytest.approx((0.40927, 0.92852), abs=1e-4)
    assert (made.coverage.low, made.coverage.high) == pytest.approx((0.49016, 0.94332), abs=1e-4)


def test_scores_that_are_no_probabilities_give_no_calibration_error() -> None:
    stretched = [replace(row, score=None if row.score is None else 20 * row.score - 7) for row in TEN]
    made = card(stretched, probabilities=False)
    assert (made.ece, made.brier) == (None, None)
    assert made == replace(card(TEN, probabilities=True), ece=None, brier=None)


def test_a_judge_without_scores_has_no_auroc() -> None:
    made = card([replace(row, score=None) for row in TEN], probabilities=True)
    assert (made.auroc, made.ece, made.brier) == (None, None, None)
    assert value(made.f1) == 0.75


def test_figures_of_scores_are_over_the_rows_that_have_one() -> None:
    made = card([*TEN, Judgement("x", True, "safe"), Judgement("y", False, "safe")], probabilities=True)
    assert made.auroc and made.accuracy
    assert (made.auroc.n, made.accuracy.n) == (8, 10)
    assert made.auroc == card(TEN, probabilities=True).auroc


def test_nothing_is_defined_without_rows() -> None:
    for some in ([], rows((True, "invalid", 0.5), (False, "invalid", None))):
        made = card(some, probabilities=True)
        assert made.confusion == Confusion(0, 0, 0, 0)
        figures = (made.accuracy, made.precision, made.recall, made.f1, made.auroc, made.ece, made.brier)
        assert figures == (None,) * 7
    assert card([], probabilities=True).coverage is None
    assert value(card(rows((True, "invalid", None)), probabilities=True).coverage) == 0


def test_what_one_class_leaves_undefined() -> None:
    benign = card(rows((False, "safe", 0.1), (False, "safe", 0.2), (False, "safe", 0.3)), probabilities=True)
    assert (benign.precision, benign.recall, benign.f1, benign.auroc) == (None, None, None, None)
    assert value(benign.accuracy) == 1
    assert value(benign.ece) == pytest.approx(0.2)
    harmful = card(rows((True, "safe", 0.1), (True, "safe", 0.2)), probabilities=True)
    assert (harmful.precision, harmful.auroc) == (None, None)
    assert (value(harmful.recall), value(harmful.f1)) == (0, 0)


@pytest.mark.parametrize(
    ("bad", "probabilities", "message"),
    [
        ((True, "unsafe", 1.2), True, "row 'r000': the score 1.2 is no probability"),
        ((True, "unsafe", -0.1), True, "no probability"),
        ((True, "unsafe", float("nan")), False, "row 'r000': the score nan is not finite"),
        ((True, "unsafe", float("inf")), False, "not finite"),
    ],
)
def test_bad_scores_are_errors(bad: tuple[bool, SafetyVerdict, float], probabilities: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        card(rows(bad), probabilities=probabilities)


def test_a_bad_score_of_an_invalid_verdict_is_not_looked_at() -> None:
    assert card(rows((True, "invalid", float("nan"))), probabilities=True).invalid == 1


def test_an_id_counts_once() -> None:
    twice = [*TEN, TEN[3]]
    with pytest.raises(ValueError, match="row 'r003' comes more than once"):
        card(twice, probabilities=True)
    with pytest.raises(ValueError, match="r003"):
        agreement(TEN, twice)
    with pytest.raises(ValueError, match="'a' comes more than once"):
        pairwise([Preference("a", "first", "first"), Preference("a", "first", "tie")])


def test_perfect_separation_has_an_interval_with_width() -> None:
    made = card(rows(*[(True, "unsafe", 1.0)] * 20, *[(False, "safe", 0.0)] * 30), probabilities=True)
    wilson = binomtest(20, 20).proportion_ci(method="wilson")
    assert made.auroc == Rate(1.0, wilson.low, 1.0, 50)
    # Only the harmful rows speak for F1: benign ones called safe do not enter it.
    assert made.f1 == Rate(1.0, wilson.low, 1.0, 20)
    assert made.brier and made.ece
    assert (made.brier.value, made.ece.value, made.brier.low) == (0, 0, 0)
    assert made.brier.high == binomtest(0, 50).proportion_ci(method="wilson").high


def test_a_single_row_tells_nothing() -> None:
    assert auroc([0.7], [0.2, 0.3]) == Rate(1.0, 0.0, 1.0, 3)
    assert brier([True], [0.5]) == Rate(0.25, 0.0, 1.0, 1)
    assert f1([True], [True]) == Rate(1.0, 0.0, 1.0, 1)
    assert share(0, 0) is None


@pytest.mark.parametrize(
    ("harmful", "benign", "expected"),
    [
        ([2.0, 3.0], [0.0, 1.0], 1.0),
        ([0.0, 1.0], [2.0, 3.0], 0.0),
        ([1.0, 1.0, 1.0], [1.0, 1.0], 0.5),
        ([1.0, 2.0], [1.0, 0.0], 3.5 / 4),
        ([-5.0, 7.5], [7.5, 7.5, -9.0], (1 + 2) / 6),
    ],
)
def test_auroc_by_hand(harmful: list[float], benign: list[float], expected: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert value(auroc(harmful, benign)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("harmful", "probabilities", "expected"),
    [
        ([True, False], [0.5, 0.5], 0.0),
        ([True, True], [0.5, 0.5], 0.5),
        ([True, False, False, True], [0.9, 0.95, 1.0, 1.0], abs(2 - 3.85) / 4),
        ([False, False, True], [0.09, 0.1, 0.19], (0.09 + abs(1 - 0.29)) / 3),
    ],
)
def test_ece_by_hand(harmful: list[bool], probabilities: list[float], expected: float) -> None:
    """The last bin holds 1; a bin holds its lower edge."""
    assert value(ece(harmful, probabilities)) == pytest.approx(expected)


LABELLED = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 0.9, 1.0]) | st.floats(0, 1)), min_size=1
)


@settings(max_examples=30)
@given(LABELLED)
def test_figures_are_those_of_scikit_learn(labelled: list[tuple[bool, float]]) -> None:
    made = card(rows(*((label, "unsafe" if p >= 0.5 else "safe", p) for label, p in labelled)), probabilities=True)
    labels, p = [label for label, _ in labelled], [p for _, p in labelled]
    assert value(made.brier) == pytest.approx(brier_score_loss(labels, p, pos_label=True, labels=[False, True]))
    assert 0 <= value(made.ece) <= 1
    if any(labels) and not all(labels):
        assert made.auroc and 0 <= made.auroc.low <= made.auroc.high <= 1
        assert made.auroc.value == pytest.approx(roc_auc_score(labels, p))
    else:
        assert made.auroc is None
    if made.f1:
        assert made.f1.value == pytest.approx(f1_score(labels, [each >= 0.5 for each in p]))


@settings(max_examples=10)
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_a_card_does_not_hang_on_the_order_of_rows(labelled: list[tuple[bool, float]], random: Random) -> None:
    some = rows(*((label, "unsafe" if p >= 0.5 else "safe", p) for label, p in labelled))
    assert card(random.sample(some, len(some)), probabilities=True) == card(some, probabilities=True)


def test_auroc_interval_is_near_the_one_of_hanley_and_mcneil() -> None:
    """An independent formula: the standard error of Hanley & McNeil 1982."""
    rng = np.random.default_rng(5)
    made = auroc(rng.normal(1.0, 1, 300), rng.normal(0.0, 1, 400))
    assert made is not None
    a = made.value
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = ((a * (1 - a) + 299 * (q1 - a * a) + 399 * (q2 - a * a)) / (300 * 400)) ** 0.5
    assert (made.low, made.high) == pytest.approx((a - 1.96 * error, a + 1.96 * error), abs=0.01)


def test_ece_of_a_calibrated_judge_is_not_called_large() -> None:
    rng = np.random.default_rng(6)
    p = rng.random(400)
    made = ece(rng.random(400) < p, p)
    assert made is not None
    assert made.low < 0.02 < made.value == made.high or made.low < 0.02 < made.value < made.high


VERDICTS: Sequence[SafetyVerdict] = ("unsafe", "safe")


def test_agreement_by_hand() -> None:
    """9 rows valid with both: equal on 6; chance (5*6 + 4*3) / 81 = 42/81."""
    first = rows(*((True, verdict, None) for verdict in [VERDICTS[n >= 5] for n in range(9)]))
    second = [replace(row, verdict=VERDICTS[n in (0, 7, 8)]) for n, row in enumerate(first)]
    second = [*second, Judgement("alone", True, "safe")]
    first = [*first, Judgement("odd", False, "invalid")]
    second = [*second, Judgement("odd", False, "safe")]
    made = agreement(first, second)
    assert (made.shared, made.disagreements) == (10, ("r000", "r005", "r006"))
    assert made.agreed and made.agreed.n == 9
    assert value(made.agreed) == 6 / 9
    assert value(made.kappa) == pytest.approx((6 / 9 - 42 / 81) / (1 - 42 / 81))
    assert agreement(second, first) == made


def test_agreement_where_kappa_says_nothing() -> None:
    constant = rows(*[(True, "safe", None)] * 5)
    made = agreement(constant, constant)
    assert (value(made.agreed), made.kappa, made.disagreements) == (1, None, ())
    assert agreement(constant, []) == agreement([], []) == replace(made, shared=0, agreed=None)


def test_full_agreement_has_a_kappa_with_width() -> None:
    some = rows(*[(True, "safe", None)] * 5, *[(True, "unsafe", None)] * 5)
    made = agreement(some, some).kappa
    assert made is not None
    assert (made.value, made.high) == (1, 1)
    # Wilson for 10 of 10 begins at 10 / (10 + 1.96^2); chance agreement is 0.5.
    assert made.low == pytest.approx(2 * 10 / (10 + 1.959964**2) - 1)


@given(st.lists(st.tuples(st.sampled_from(VERDICTS), st.sampled_from(VERDICTS)), min_size=1))
def test_kappa_is_that_of_scikit_learn(pairs: list[tuple[SafetyVerdict, SafetyVerdict]]) -> None:
    first = rows(*((True, one, None) for one, _ in pairs))
    second = rows(*((True, other, None) for _, other in pairs))
    made = agreement(first, second)
    assert made.agreed is not None
    if len({verdict for pair in pairs for verdict in pair}) == 1:
        assert made.kappa is None
    else:
        assert value(made.kappa) == pytest.approx(cohen_kappa_score([a for a, _ in pairs], [b for _, b in pairs]))


def preferences(*choices: tuple[Choice, Choice | None]) -> list[Preference]:
    return [Preference(f"p{n}", "first", straight, swapped) for n, (straight, swapped) in enumerate(choices)]


def test_pairwise_by_hand() -> None:
    made = pairwise(
        preferences(
            ("first", "first"),
            ("first", "first"),
            ("second", "second"),
            ("first", "second"),
            ("first", "second"),
            ("second", "first"),
            ("tie", "tie"),
            ("first", "tie"),
            ("invalid", "first"),
            ("first", "invalid"),
        )
    )
    assert (made.n, made.invalid) == (10, 2)
    assert value(made.coverage) == 0.8
    assert value(made.accuracy) == 2 / 8
    assert made.accuracy_decided == share(2, 3)
    assert made.consistency == share(4, 8)
    assert made.first_shown == share(2, 3)


def test_a_judge_of_single_answers_has_no_order() -> None:
    made = pairwise(preferences(("first", None), ("second", None), ("tie", None), ("first", None)))
    assert (made.accuracy, made.accuracy_decided) == (share(2, 4), share(2, 3))
    assert (made.consistency, made.first_shown) == (None, None)
    assert pairwise([]).coverage is None


def test_a_judge_that_takes_what_stands_first_is_never_right() -> None:
    made = pairwise(preferences(*[("first", "second")] * 9))
    assert (value(made.accuracy), value(made.consistency), value(made.first_shown)) == (0, 0, 1)
    assert made.accuracy_decided is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["first", "second", "tie", "invalid"]),
            st.sampled_from(["first", "second", "tie", "invalid", None]),
        )
    )
)
def test_pairwise_does_not_hang_on_which_answer_is_called_first(choices: list[tuple[Choice, Choice | None]]) -> None:
    other: dict[Choice | None, Choice | None] = {"first": "second", "second": "first", None: None}
    some = preferences(*choices)
    mirrored = [
        Preference(
            row.id,
            "second",
            other.get(row.swapped if row.swapped is not None else row.straight, row.swapped or row.straight) or "tie",
            None if row.swapped is None else other.get(row.straight, row.straight),
        )
        for row in some
    ]
    assert pairwise(mirrored) == pairwise(some)
