"""Rewards and advantages of small groups, by hand; and what of a group is learnt from."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged import group, judged, prompt

from erpo_ray import rewards
from erpo_ray.config import Prefer
from erpo_ray.config.reinforce import AdvantageName, Reinforce
from erpo_ray.types import Advantage, Candidate, Group, LeftOut, Prompt, Verdict

HARMFUL, BENIGN = prompt("h", "harmful"), prompt("b", "benign")
NAMES: tuple[AdvantageName, ...] = ("grpo", "mean", "rloo")
PLAIN = Reinforce(length_weight=0.0)

values = st.lists(st.floats(-3, 3, allow_subnormal=False), min_size=2, max_size=8)


def said(prompt: Prompt, sample: int, text: str, *, tokens: int = 10, **verdict: Any) -> tuple[Candidate, Verdict]:
    return judged(prompt, sample, text, tokens=tokens, **verdict)


def compared(*groups: Group, settings: Reinforce = PLAIN, traced: bool = True) -> tuple[list[Advantage], list[LeftOut]]:
    return rewards.compare(groups, settings, Prefer(), traced)


@pytest.mark.parametrize(
    ("name", "given_rewards", "expected"),
    [
        # Mean 1, deviations -1 -1 0 2, variance 6/4.
        ("grpo", [0, 0, 1, 3], [-1 / math.sqrt(1.5), -1 / math.sqrt(1.5), 0, 2 / math.sqrt(1.5)]),
        ("mean", [0, 0, 1, 3], [-1, -1, 0, 2]),
        # Means of the others: 4/3, 4/3, 1, 1/3.
        ("rloo", [0, 0, 1, 3], [-4 / 3, -4 / 3, 0, 8 / 3]),
        ("grpo", [0, 2], [-1, 1]),
        ("rloo", [0, 2], [-2, 2]),
    ],
)
def test_advantages_by_hand(name: AdvantageName, given_rewards: list[float], expected: list[float]) -> None:
    assert rewards.ADVANTAGES[name](given_rewards) == pytest.approx(expected)


@pytest.mark.parametrize("name", NAMES)
@given(values, st.floats(-2, 2))
def test_advantages_add_up_to_nothing_and_do_not_see_what_all_have(
    name: AdvantageName, found: list[float], shift: float
) -> None:
    advantages = rewards.ADVANTAGES[name](found)
    assert sum(advantages) == pytest.approx(0, abs=1e-6)
    if max(found) - min(found) > 0.01:
        shifted = rewards.ADVANTAGES[name]([value + shift for value in found])
        assert shifted == pytest.approx(advantages, abs=1e-6)


@given(values)
def test_leave_one_out_is_the_centred_reward_scaled(found: list[float]) -> None:
    scale = len(found) / (len(found) - 1)
    assert rewards.leave_one_out(found) == pytest.approx([scale * one for one in rewards.centred(found)], abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [2, 3, 7])
def test_equal_rewards_have_no_advantage(name: AdvantageName, count: int) -> None:
    assert rewards.ADVANTAGES[name]([0.3] * count) == pytest.approx([0.0] * count, abs=1e-12)


def test_the_gate_is_in_the_reward_and_every_completion_of_a_group_is_a_row() -> None:
    one = group(
        HARMFUL,
        said(HARMFUL, 0, "no", refused=True, utility=0.5),
        said(HARMFUL, 1, "yes here", safety=-1.0, utility=-1.0),
        said(HARMFUL, 2, "no, sorry", refused=True, utility=0.5, well_formed=False),
    )
    rows, left_out = compared(one)
    assert left_out == []
    found = {row.kind: row for row in rows}
    assert {kind: row.reward for kind, row in found.items()} == {"passes": 1.5, "safety": 0.0, "format": 0.0}
    assert found["passes"].advantage == pytest.approx(1 / math.sqrt(0.5))
    assert found["safety"].advantage == found["format"].advantage == pytest.approx(-0.5 / math.sqrt(0.5))
    assert found["passes"].reason == "reward 1.50 against 0.50 of its group"
    assert found["passes"].prompt_ids == one.prompt_ids
    assert found["passes"].completion_ids == one.candidates[0].token_ids


def test_rules_cited_wrongly_never_cost_more_than_harm() -> None:
    wrong: dict[str, Any] = {"well_formed": False, "notes": ("no_rules",)}
    refused = group(
        HARMFUL,
        said(HARMFUL, 0, "harm", safety=-1.0, utility=-1.0),
        said(HARMFUL, 1, "harm, and no rule", safety=-1.0, utility=-1.0, **wrong),
        said(HARMFUL, 2, "no, and no rule", utility=0.25, **wrong),
        said(HARMFUL, 3, "no", utility=0.5),
    )
    assert sorted(row.reward for row in compared(refused)[0]) == [0, 0, 0.25, 1.5]
    answered = group(
        BENIGN,
        said(BENIGN, 0, "no, and no rule", utility=-1.0, refused=True, **wrong),
        said(BENIGN, 1, "yes, and no rule", utility=0.5, **wrong),
    )
    assert sorted(row.reward for row in compared(answered)[0]) == [0, 0.5]


def test_length_is_charged_among_those_that_pass_only() -> None:
    short = said(BENIGN, 0, "short", tokens=40, utility=0.5)
    long = said(BENIGN, 1, "long one", tokens=60, utility=0.5)
    refused = said(BENIGN, 2, "no", tokens=400, utility=-1.0, refused=True)
    rows, _ = compared(group(BENIGN, short, long, refused), settings=Reinforce(length_weight=0.4))
    assert sorted(row.reward for row in rows) == pytest.approx([0.0, 1.5 - 0.4 * 0.5, 1.5])


def test_two_samples_with_one_text_are_two_draws() -> None:
    good = [said(HARMFUL, sample, "no", refused=True, utility=0.5) for sample in (0, 1)]
    bad = said(HARMFUL, 2, "yes here", safety=-1.0, utility=-1.0)
    rows, left_out = compared(group(HARMFUL, *good, bad), settings=changed(advantage="mean"))
    assert left_out == []
    assert sorted(row.advantage for row in rows) == pytest.approx([-1.0, 0.5, 0.5])


def test_what_was_given_carries_no_loss() -> None:
    candidate, verdict = said(HARMFUL, 0, "no", refused=True, utility=0.5)
    behind = replace(candidate, given=2)
    rows, _ = compared(group(HARMFUL, (behind, verdict), said(HARMFUL, 1, "yes here", safety=-1.0, utility=-1.0)))
    row = next(row for row in rows if row.kind == "passes")
    assert row.prefix_ids == candidate.token_ids[:2]
    assert row.completion_ids == candidate.token_ids[2:]


@pytest.mark.parametrize("advantage", NAMES)
def test_a_group_that_tells_nothing_is_left_out_and_says_why(advantage: AdvantageName) -> None:
    alike = group(HARMFUL, *(said(HARMFUL, n, f"no {n}", refused=True, utility=0.5) for n in range(3)))
    noise = group(BENIGN, *(said(BENIGN, n, f"yes {n}", utility=0.5 + n / 50) for n in range(3)))
    failed = said(BENIGN, 0, "x", failure="timeout")
    alone = group(BENIGN, failed, said(BENIGN, 1, "y", utility=0.5))
    unknown = group(prompt("u", "unknown"), *(said(prompt("u", "unknown"), n, f"z {n}") for n in range(2)))
    rows, left_out = compared(alike, noise, alone, unknown, settings=changed(advantage=advantage))
    assert rows == []
    assert [left.reason for left in left_out if left.id == "h"] == [
        "all rewards are equal: 1.50 to 1.50, the margin is 0.1"
    ]
    assert sorted(left.reason for left in left_out if left.id == "b") == [
        "1 of 2 candidates can be compared",
        "all rewards are equal: 1.50 to 1.54, the margin is 0.1",
    ]
    assert [left.reason for left in left_out if left.id == failed[0].id] == ["not judged: timeout"]
    assert [left.reason for left in left_out if left.id == "u"] == ["the prompt has no label"]


def test_without_a_margin_equal_rewards_are_left_out_all_the_same() -> None:
    alike = group(HARMFUL, *(said(HARMFUL, n, f"no {n}", refused=True, utility=0.5) for n in range(2)))
    rows, left_out = compared(alike, settings=changed(margin=0.0))
    assert rows == [] and len(left_out) == 1


def test_the_mean_reward_weighs_prompts_alike() -> None:
    one = group(HARMFUL, *(said(HARMFUL, n, f"no {n}", refused=True, utility=0.5) for n in range(4)))
    other = group(BENIGN, said(BENIGN, 0, "no", refused=True, utility=-1.0))
    assert rewards.mean_reward([one, other], PLAIN, Prefer(), True) == pytest.approx(0.75)
    assert rewards.mean_reward([group(BENIGN, said(BENIGN, 0, "x", failure="timeout"))], PLAIN, Prefer(), True) is None


def changed(**changes: object) -> Reinforce:
    return PLAIN.model_copy(update=changes)


@pytest.mark.parametrize("name", ["stair", "lagrangian", "gate"])
@pytest.mark.parametrize("spoilt", [{"well_formed": False}, {"finish": "length"}])
def test_a_spoilt_refusal_of_harm_is_never_worth_less_than_help_with_it(name: Any, spoilt: dict[str, Any]) -> None:
    refused = said(HARMFUL, 0, "No, I cannot help.", safety=1.0, utility=0.75, refused=True, **spoilt)
    helped = said(HARMFUL, 1, "Do it so and so.", safety=-1.0, utility=-1.0, refused=False)
    fair = said(HARMFUL, 2, "I will not.", safety=1.0, utility=0.5, refused=True)
    settings = Reinforce(length_weight=0.0, reward=name)
    rows, _ = rewards.compare([group(HARMFUL, refused, helped, fair)], settings, Prefer(lagrange_multiplier=2.0), True)
    by_sample = {row.completion_ids: row.reward for row in rows}
    found = [by_sample[each[0].token_ids] for each in (refused, helped, fair)]
    assert found[0] == found[1] < found[2]
