"""The axes composed: formulas by hand, where each is monotone, what never wins, and a default that pairs as before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged import group, judged, prompt

from erpo_ray import pairs as pairing
from erpo_ray.config import Prefer
from erpo_ray.config.training import CompositionName
from erpo_ray.items import passes
from erpo_ray.judging.composition import (
    Composition,
    admissible,
    best,
    lagrangian,
    length_term,
    lexicographic,
    reward,
    safety_gate,
    stair,
)
from erpo_ray.types import Group, Label, Scores

NAMES: tuple[CompositionName, ...] = get_args(CompositionName)
REWARDS = [name for name in NAMES if name != "lexicographic"]
LABELS: st.SearchStrategy[Label] = st.sampled_from(["harmful", "benign"])
UNIT = st.floats(-1, 1) | st.sampled_from([-1.0, -0.5, 0.0, 0.1, 0.25, 0.5, 1.0])
LENGTH = st.integers(1, 200)
SCORES = st.builds(Scores, UNIT, UNIT, LENGTH)
SLACK = st.sampled_from([0.0, 0.15, 0.3])
COMPOSITIONS = st.builds(Composition, st.sampled_from(NAMES), st.floats(0, 5))


@dataclass(frozen=True)
class Row:
    scores: Scores
    refused: bool = False


ROWS = st.builds(Row, SCORES, st.booleans())


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (Scores(1, 1, 10), 3.0),
        (Scores(1, -1, 10), 1.0),
        (Scores(-1, 1, 10), -3.0),
        (Scores(-1, -1, 10), -1.0),
        (Scores(0.5, 0.5, 10), 1.25),
        (Scores(0, 1, 10), 0.0),
    ],
)
def test_stair_by_hand(scores: Scores, expected: float) -> None:
    assert stair(scores) == expected
    assert stair(scores) == scores.safety * scores.utility + 2 * scores.safety
    assert reward(scores, Composition("stair", 9.0)) == expected


@pytest.mark.parametrize(
    ("scores", "multiplier", "expected"),
    [
        (Scores(1, 0.5, 10), 2.0, 0.5),
        (Scores(-1, 0.5, 10), 2.0, -1.5),
        (Scores(0, 0.5, 10), 3.0, -1.0),
        (Scores(-1, 0.5, 10), 0.0, 0.5),
    ],
)
def test_lagrangian_by_hand(scores: Scores, multiplier: float, expected: float) -> None:
    assert lagrangian(scores, multiplier) == expected
    assert reward(scores, Composition("lagrangian", multiplier)) == expected


@pytest.mark.parametrize(
    ("scores", "expected"),
    [(Scores(1, 0.5, 10), 1.5), (Scores(0.1, -1, 10), 0.0), (Scores(0, 1, 10), 0.0), (Scores(-1, 1, 10), 0.0)],
)
def test_gate_by_hand(scores: Scores, expected: float) -> None:
    assert safety_gate(scores) == expected
    assert reward(scores, Composition("gate", 9.0)) == expected


def test_lexicographic_by_hand() -> None:
    unsafe, dull, long, short = Scores(-1, 1, 1), Scores(0.9, 0.2, 1), Scores(0.2, 0.6, 9), Scores(0.2, 0.5, 5)
    assert sorted([long, unsafe, short, dull], key=lexicographic) == [unsafe, dull, short, long]
    assert sorted([long, unsafe, short, dull], key=lambda each: lexicographic(each, 0.5)) == [unsafe, dull, long, short]
    assert lexicographic(Scores(0.3, 0.7, 12), 0.5) == (True, 0.5, -12, 0.7)
    with pytest.raises(ValueError, match="without a reward"):
        reward(long, Composition("lexicographic", 2.0))


@pytest.mark.parametrize(
    ("length", "shortest", "expected"), [(40, 40, 0.0), (50, 40, -0.05), (80, 40, -0.2), (400, 40, -0.2)]
)
def test_length_term_by_hand(length: int, shortest: int, expected: float) -> None:
    assert length_term(length, shortest, 0.2) == pytest.approx(expected)


@given(LENGTH, LENGTH, st.integers(0, 200), SLACK)
def test_the_length_term_falls_with_length_within_its_bounds(
    shortest: int, more: int, further: int, weight: float
) -> None:
    near, far = shortest + more, shortest + more + further
    assert -weight <= length_term(far, shortest, weight) <= length_term(near, shortest, weight) <= 0


def order(composition: Composition) -> Callable[[Scores], tuple[float, ...]]:
    if composition.name == "lexicographic":
        return lexicographic
    return lambda scores: (reward(scores, composition),)


@given(COMPOSITIONS, SCORES, UNIT)
def test_monotone_in_safety(composition: Composition, scores: Scores, safety: float) -> None:
    low, high = sorted([scores.safety, safety])
    value = order(composition)
    assert value(replace(scores, safety=low)) <= value(replace(scores, safety=high))


@given(COMPOSITIONS, SCORES, UNIT)
def test_monotone_in_utility_where_safe(composition: Composition, scores: Scores, utility: float) -> None:
    scores = replace(scores, safety=abs(scores.safety))
    low, high = sorted([scores.utility, utility])
    value = order(composition)
    assert value(replace(scores, utility=low)) <= value(replace(scores, utility=high))


@given(SCORES, UNIT, st.floats(0, 5))
def test_utility_of_unsafe_answers(scores: Scores, utility: float, multiplier: float) -> None:
    """Only STAIR turns round: there an unsafe answer is the worse, the more useful it is."""
    scores = replace(scores, safety=-abs(scores.safety))
    low, high = (replace(scores, utility=each) for each in sorted([scores.utility, utility]))
    assert stair(low) >= stair(high)
    assert safety_gate(low) == safety_gate(high) == 0
    assert lagrangian(low, multiplier) <= lagrangian(high, multiplier)
    assert lexicographic(low) <= lexicographic(high)


@given(UNIT, UNIT, st.floats(-4, 4))
def test_stair_rises_with_safety_just_where_utility_is_above_minus_two(a: float, b: float, utility: float) -> None:
    low, high = (stair(Scores(each, utility, 1)) for each in sorted([a, b]))
    if utility >= -2:
        assert low <= high
    if utility <= -2:
        assert low >= high


@given(COMPOSITIONS, SCORES, LENGTH)
def test_shorter_is_never_worse(composition: Composition, scores: Scores, length: int) -> None:
    low, high = sorted([scores.length, length])
    value = order(composition)
    assert value(replace(scores, length=high)) <= value(replace(scores, length=low))


@given(SCORES, SCORES, st.floats(2.001, 9))
def test_no_certain_harm_outranks_certain_safety(safe: Scores, unsafe: Scores, multiplier: float) -> None:
    safe, unsafe = replace(safe, safety=1.0), replace(unsafe, safety=-1.0)
    assert stair(unsafe) < stair(safe)
    assert lagrangian(unsafe, multiplier) < lagrangian(safe, multiplier)
    assert safety_gate(unsafe) <= safety_gate(safe)
    assert lexicographic(unsafe) < lexicographic(safe)


@given(st.lists(ROWS, min_size=1, max_size=6), LABELS, COMPOSITIONS, SLACK, st.data())
def test_what_wins_still_wins_when_it_gets_better(
    rows: list[Row], label: Label, composition: Composition, slack: float, data: st.DataObject
) -> None:
    winner = best(rows, label, composition, slack)
    at = next(i for i, row in enumerate(rows) if row is winner)
    scores = winner.scores
    better = replace(
        scores, safety=data.draw(st.floats(scores.safety, 1)), length=data.draw(st.integers(1, scores.length))
    )
    if admissible(label, winner):
        better = replace(better, utility=data.draw(st.floats(scores.utility, 1)))
    improved = Row(better, winner.refused)
    assert best([*rows[:at], improved, *rows[at + 1 :]], label, composition, slack) is improved


@given(st.lists(ROWS, min_size=1, max_size=6), LABELS, COMPOSITIONS, SLACK, st.randoms(use_true_random=False))
def test_the_order_of_candidates_is_irrelevant(
    rows: list[Row], label: Label, composition: Composition, slack: float, random: Random
) -> None:
    def known(row: Row) -> tuple[float, ...]:
        scores = row.scores
        if composition.name == "lexicographic":
            return scores.utility, scores.length
        return reward(scores, composition), scores.utility, scores.length

    winner = best(rows, label, composition, slack)
    other = best(random.sample(rows, len(rows)), label, composition, slack)
    assert known(other) == known(winner)
    assert admissible(label, other) == admissible(label, winner)


@given(st.lists(ROWS, min_size=1, max_size=6), COMPOSITIONS, SLACK)
def test_no_refusal_of_the_harmless_and_nothing_unsafe_wins_against_an_answer(
    rows: list[Row], composition: Composition, slack: float
) -> None:
    answer = Row(Scores(0.01, -0.99, 200))
    for some in ([*rows, answer], [answer, *rows]):
        winner = best(some, "benign", composition, slack)
        assert not winner.refused
        assert winner.scores.safety > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_safe_refusal_of_the_harmless_loses_even_where_its_reward_is_higher(name: CompositionName) -> None:
    refusal, answer = Row(Scores(1.0, -1.0, 10), refused=True), Row(Scores(0.2, 0.0, 60))
    composition = Composition(name, 5.0)
    assert stair(refusal.scores) > stair(answer.scores)
    assert best([refusal, answer], "benign", composition, 0.15) is answer
    assert best([refusal], "benign", composition, 0.15) is refusal


def test_compositions_choose_differently() -> None:
    """Three answers: a short one, a somewhat more useful one, and one that is sure to be safe."""
    short, useful, sure = Row(Scores(0.4, 0.5, 50)), Row(Scores(0.4, 0.6, 55)), Row(Scores(1.0, 0.3, 60))

    def choice(name: CompositionName, multiplier: float = 2.0, slack: float = 0.15) -> Row:
        return best([short, useful, sure], "benign", Composition(name, multiplier), slack)

    assert choice("lexicographic") is short
    assert choice("gate") is useful
    assert choice("stair") is sure
    assert choice("lagrangian") is sure
    assert choice("lagrangian", multiplier=0.5) is useful
    assert choice("gate", slack=1.5) is short


def test_length_counts_for_nothing_among_those_that_may_not_win() -> None:
    short, useful = Row(Scores(-1.0, 0.1, 10)), Row(Scores(-1.0, 0.2, 1000))
    assert best([short, useful], "harmful", Composition("lagrangian", 2.0), 0.3) is useful
    safe = [Row(Scores(1.0, row.scores.utility, row.scores.length)) for row in (short, useful)]
    assert best(safe, "harmful", Composition("lagrangian", 2.0), 0.3) is safe[0]


def test_none_to_choose_from() -> None:
    for name in NAMES:
        with pytest.raises(ValueError):
            best([], "benign", Composition(name, 2.0), 0.15)


def before(candidates: Sequence[Row], label: Label, composition: Composition, slack: float) -> Row:
    """How pairs were chosen before there were compositions."""
    enough = max(each.scores.utility for each in candidates) - slack
    useful = [each for each in candidates if each.scores.utility >= enough]
    return min(useful, key=lambda each: (each.scores.length, -each.scores.utility))


@st.composite
def judged_groups(draw: st.DrawFn) -> list[Group]:
    row = st.fixed_dictionaries(
        {
            "tokens": st.integers(1, 60),
            "safety": UNIT | st.just(1.0),
            "utility": UNIT,
            "refused": st.booleans(),
            "well_formed": st.sampled_from([True, True, False]),
        }
    )
    groups = []
    for n, label in enumerate(draw(st.lists(LABELS, min_size=1, max_size=4))):
        at = prompt(f"p{n}", label)
        rows = draw(st.lists(row, min_size=2, max_size=6))
        groups.append(group(at, *(judged(at, i, f"text {i} of {n}", **each) for i, each in enumerate(rows))))
    return groups


@settings(max_examples=200)
@given(judged_groups(), st.booleans())
def test_the_default_gives_the_pairs_it_always_gave(groups: list[Group], short: bool) -> None:
    config = Prefer(margin_tokens=3, pairs_per_prompt=3)
    assert config.composition == "lexicographic"
    cap = {"benign": 40, "harmful": 30} if short else {}
    now = pairing.choose(groups, config, cap=cap, prefer_short=short, seed=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairing, "best", before)
        assert pairing.choose(groups, config, cap=cap, prefer_short=short, seed=3) == now


@settings(max_examples=100)
@given(judged_groups(), st.booleans(), st.sampled_from(NAMES), st.randoms(use_true_random=False))
def test_pairs_of_any_composition(groups: list[Group], short: bool, name: CompositionName, random: Random) -> None:
    config = Prefer(margin_tokens=3, composition=name, min_utility=-0.5)
    found = pairing.choose(groups, config, cap={}, prefer_short=short, seed=3)
    shuffled = []
    for each in groups:
        rows = list(zip(each.candidates, each.verdicts, strict=True))
        random.shuffle(rows)
        shuffled.append(group(each.prompt, *rows))
    assert pairing.choose(shuffled, config, cap={}, prefer_short=short, seed=3) == found
    by_ids = {c.token_ids: (g.prompt, c, v) for g in groups for c, v in zip(g.candidates, g.verdicts, strict=True)}
    for pair in found[0]:
        assert passes(*by_ids[pair.chosen_ids], config.min_utility)


@pytest.mark.parametrize(("name", "chosen"), [("lexicographic", 0), ("gate", 1), ("stair", 2), ("lagrangian", 2)])
def test_pairing_takes_the_composition_of_its_settings(name: CompositionName, chosen: int) -> None:
    at = prompt("b", "benign")
    rows = [
        judged(at, 0, "one two", tokens=50, safety=0.4, utility=0.5),
        judged(at, 1, "three four", tokens=55, safety=0.4, utility=0.6),
        judged(at, 2, "five six", tokens=60, safety=1.0, utility=0.3),
        judged(at, 3, "seven eight", tokens=60, refused=True, utility=-1.0),
    ]
    found, _ = pairing.choose([group(at, *rows)], Prefer(composition=name), cap={}, prefer_short=False, seed=1)
    assert [pair.kind for pair in found] == ["over_refusal"]
    assert found[0].chosen_ids == rows[chosen][0].token_ids


def test_lambda_is_what_the_settings_say() -> None:
    at = prompt("b", "benign")
    useful = judged(at, 0, "one two", tokens=50, safety=0.4, utility=0.6)
    sure = judged(at, 1, "three four", tokens=50, safety=1.0, utility=0.3)
    refusal = judged(at, 2, "five six", tokens=50, refused=True, utility=-1.0)
    for multiplier, chosen in ((0.0, useful), (0.9, useful), (1.1, sure)):
        config = Prefer(composition="lagrangian", lagrange_multiplier=multiplier)
        found, _ = pairing.choose([group(at, useful, sure, refusal)], config, cap={}, prefer_short=False, seed=1)
        assert found[0].chosen_ids == chosen[0].token_ids
    with pytest.raises(ValueError, match="lagrange_multiplier"):
        Prefer(lagrange_multiplier=-0.1)
