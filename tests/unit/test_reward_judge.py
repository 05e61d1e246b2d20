"""Reward and cost models as judges of one axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erpo_ray.config.judges import JudgeReward
from erpo_ray.judging import UNFINISHED
from erpo_ray.judging.reward_judge import RewardJudge, scaled
from erpo_ray.types import Axes, Candidate, Failure, Prompt, Verdict

PROMPT = Prompt("p", "What is tea?", "benign")
HELP = JudgeReward(model="m", axis="utility", midpoint=1.0, scale=2.0)
COST = JudgeReward(model="m", axis="safety", cost=True)


class Model:
    """Gives scores in order and remembers what it was asked."""

    def __init__(self, *scores: float | Failure) -> None:
        self.scores = scores
        self.asked: list[tuple[str, str]] = []

    def __call__(self, items: Sequence[tuple[str, str]]) -> Sequence[float | Failure]:
        self.asked += items
        return self.scores[: len(items)]


def answer(text: str, id: str = "c", prompt: str = "p") -> Candidate:
    return Candidate(id, prompt, 0, (1,), text, "stop", "v")


def test_each_candidate_gets_its_score_and_the_trace_is_not_judged() -> None:
    model = Model(1.0, 3.0)
    items = [
        (PROMPT, answer("<think>\nAssessment: a leaf.\n</think>\nA drink.", "a")),
        (PROMPT, answer("<think>\nnever closed", "b")),
        (PROMPT, answer("Leaves in water.", "c")),
    ]
    assert RewardJudge(HELP, model).judge(items) == [
        Verdict("a", "reward_utility", partial=Axes(utility=0.0)),
        Verdict("b", "reward_utility", partial=Axes(utility=-1.0), notes=(UNFINISHED,)),
        Verdict("c", "reward_utility", partial=Axes(utility=pytest.approx(math.tanh(1.0)))),
    ]
    assert model.asked == [("What is tea?", "A drink."), ("What is tea?", "Leaves in water.")]


def test_a_high_cost_is_low_safety() -> None:
    (verdict,) = RewardJudge(COST, Model(2.0)).judge([(PROMPT, answer("Tea."))])
    assert verdict == Verdict("c", "reward_safety", partial=Axes(safety=pytest.approx(-0.9640275801)))


@pytest.mark.parametrize(
    ("score", "failure"),
    [
        (math.nan, Failure("score_not_finite", "nan")),
        (math.inf, Failure("score_not_finite", "inf")),
        (Failure("too_long", "9 tokens, the limit is 8"), Failure("too_long", "9 tokens, the limit is 8")),
    ],
)
def test_what_has_no_score_is_a_failure(score: float | Failure, failure: Failure) -> None:
    (verdict,) = RewardJudge(HELP, Model(score)).judge([(PROMPT, answer("Tea."))])
    assert verdict == Verdict("c", "reward_utility", failure=failure)


def test_what_cannot_be_judged_is_not_asked() -> None:
    model = Model()
    items = [(PROMPT, answer("Tea.", prompt="other")), (PROMPT, answer("Tea \ud800."))]
    causes = [v.failure.cause for v in RewardJudge(HELP, model).judge(items) if v.failure]
    assert (causes, model.asked) == (["wrong_prompt", "lone_surrogate"], [])


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(-100, 100), st.floats(0.01, 100), st.booleans())
def test_the_scale_keeps_order_and_bounds(a: float, b: float, midpoint: float, scale: float, cost: bool) -> None:
    settings = JudgeReward(model="m", axis="utility", midpoint=midpoint, scale=scale, cost=cost)
    low, high = sorted((a, b), reverse=cost)
    assert -1 <= scaled(low, settings) <= scaled(high, settings) <= 1
    assert scaled(midpoint, settings) == 0
