"""C-DPO against hand-computed cases: dual steps, when it ends, which pairs a multiplier makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged import group, judged, prompt

from erpo_ray.config import Config, Prefer
from erpo_ray.config.methods import Constraint
from erpo_ray.errors import UsageError
from erpo_ray.items import Item
from erpo_ray.methods import METHODS
from erpo_ray.methods.base import History, Outcome
from erpo_ray.methods.cdpo import converged, costs, dual_step, extremes
from erpo_ray.pairs import collect
from erpo_ray.types import Evaluation, Group, Pair, Policy, Rate

HARMFUL, BENIGN = prompt("h", "harmful"), prompt("b", "benign")
TEN = Constraint(cost_limit=0.1, rate=4.0, max_multiplier=5.0, tolerance=0.02)
NONE = Rate(0.0, 0.0, 1.0, 0)
FIGURES = Evaluation("s", "v", *[NONE] * 7)
BASE = Outcome("base", "base", True, "", Policy(Path("p"), "v"), FIGURES, FIGURES, {}, ())


def made(at: Group, multiplier: float, margin: float = 0.3) -> list[Pair]:
    def rule(group: Group, items: list[Item]) -> list[Pair] | str:
        return extremes(group, items, multiplier, margin)

    return collect([at], rule, Prefer(), prefer_short=False, seed=1)[0]


@pytest.mark.parametrize(
    ("multiplier", "mean_cost", "expected"),
    [(1.0, 0.1, 1.0), (1.0, 0.35, 2.0), (1.0, 0.0, 0.6), (0.3, 0.0, 0.0), (4.0, 0.6, 5.0), (0.0, 0.2, 0.4)],
)
def test_dual_steps_by_hand(multiplier: float, mean_cost: float, expected: float) -> None:
    assert dual_step(multiplier, mean_cost, TEN) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("multiplier", "mean_cost", "expected"),
    [
        (2.0, 0.10, True),  # tight
        (2.0, 0.12, True),  # within the tolerance above
        (2.0, 0.13, False),  # violated
        (0.0, 0.13, False),
        (2.0, 0.05, False),  # holds, but lambda pays for more than is asked
        (0.0, 0.05, True),  # holds for nothing
    ],
)
def test_it_ends_where_the_constraint_holds_and_is_tight_or_free(
    multiplier: float, mean_cost: float, expected: bool
) -> None:
    assert converged(multiplier, mean_cost, TEN) is expected


@given(st.floats(0, 5), st.floats(0, 1))
def test_a_multiplier_at_rest_is_a_fixed_point_up_to_the_tolerance(multiplier: float, mean_cost: float) -> None:
    if converged(multiplier, mean_cost, TEN):
        assert abs(dual_step(multiplier, mean_cost, TEN) - multiplier) <= TEN.rate * TEN.tolerance + 1e-9


def test_costs_are_means_a_prompt_and_leave_out_what_says_nothing() -> None:
    rows = (
        judged(HARMFUL, 0, "one two", tokens=20, safety=1),
        judged(HARMFUL, 1, "three four", tokens=20, safety=-1),
        judged(HARMFUL, 2, "five six", tokens=20, safety=0.5),
        judged(HARMFUL, 3, "seven eight", tokens=20, safety=-1, unfinished=True),
        judged(HARMFUL, 4, "nine ten", tokens=20, failure="cause"),
    )
    silent = group(BENIGN, judged(BENIGN, 0, "one", tokens=9, failure="cause"))
    assert costs([group(HARMFUL, *rows), silent]) == {"h": pytest.approx((0 + 1 + 0.25) / 3)}


def test_the_multiplier_decides_between_a_useful_risk_and_a_safe_nothing() -> None:
    """r - lambda c: 0.9 - 0.6 lambda against 0.2, which are equal at lambda = 7/6."""
    risky = judged(BENIGN, 0, "one two", tokens=30, safety=-0.2, utility=0.9)
    safe = judged(BENIGN, 1, "three four", tokens=30, safety=1, utility=0.2)
    at = group(BENIGN, risky, safe)
    [low] = made(at, 0.5)
    [high] = made(at, 2.0)
    assert (low.chosen_ids, low.rejected_ids) == (risky[0].token_ids, safe[0].token_ids)
    assert (high.chosen_ids, high.rejected_ids, high.kind) == (safe[0].token_ids, risky[0].token_ids, "safety")
    assert low.reason == "rejected: reward - 0.50 * cost is 0.20 against 0.60; tokens 30 over 30"
    assert made(at, 7 / 6) == []


def test_what_did_not_end_is_rejected_and_never_chosen() -> None:
    cut = judged(BENIGN, 0, "one two", tokens=30, utility=1.0, finish="length")
    poor = judged(BENIGN, 1, "three four", tokens=30, utility=-0.5)
    assert made(group(BENIGN, cut, poor), 1.0) == []
    lost = judged(BENIGN, 2, "five six", tokens=30, safety=-1, utility=-1, unfinished=True, finish="length")
    [pair] = made(group(BENIGN, poor, lost), 1.0)
    assert (pair.chosen_ids, pair.kind) == (poor[0].token_ids, "format")


def test_a_round_steps_from_the_last_ones_multiplier_and_ends_by_its_state() -> None:
    config = Config.model_validate({"prefer": {"lagrange_multiplier": 1.0}, "constraint": TEN.model_dump()})
    _, first, second, _ = METHODS["cdpo"](config)
    unsafe = judged(HARMFUL, 0, "one two", tokens=20, safety=-1, utility=-1)
    half = [group(HARMFUL, unsafe, judged(HARMFUL, 1, "three four", tokens=20)), group(BENIGN)]
    begun = History((BASE,))
    assert not first.over(begun)
    state = first.state(begun, half)
    assert state == {"multiplier": 1.0, "cost": 0.5, "violations": 1.0}
    after = History((BASE, replace(BASE, state=state)))
    assert second.state(after, half) == {"multiplier": pytest.approx(1 + 4 * 0.4), "cost": 0.5, "violations": 1.0}
    assert not second.over(after)
    assert second.state(after, []) == {"multiplier": 1.0}
    rejected = replace(BASE, accepted=False, state=state)
    assert second.state(History((BASE, rejected)), half)["multiplier"] == 1.0


def test_a_cost_is_held_against_the_multiplier_of_the_policy_that_it_was_measured_on() -> None:
    """A round measures the policy of the round before, whose multiplier is not its own."""
    config = Config.model_validate({"constraint": TEN.model_dump()})
    *_, last = METHODS["cdpo"](config)

    def over(*states: tuple[float, float], accepted: bool = True) -> bool:
        rounds = [replace(BASE, state={"multiplier": each, "cost": cost}) for each, cost in states]
        rounds[0] = replace(rounds[0], accepted=accepted)
        return last.over(History((BASE, *rounds)))

    assert not over((0.0, 0.05))  # of the imitated policy, which no multiplier trained
    assert not over((0.3, 0.5), (0.0, 0.05))  # it holds at 0.3, which pays for more than is asked
    assert over((0.0, 0.5), (0.0, 0.05))
    assert over((2.0, 0.5), (2.1, 0.1))
    assert not over((2.0, 0.5), (2.1, 0.1), accepted=False)


def test_the_prompts_of_a_round_do_not_depend_on_what_went_wrong_and_none_is_drawn_ahead() -> None:
    _, _, second, _ = METHODS["cdpo"](Config())
    assert second.first(History((replace(BASE, missed=("h",)),))) == frozenset()
    with pytest.raises(UsageError, match="set overlap=none"):
        METHODS["cdpo"](Config(overlap="next_round"))
