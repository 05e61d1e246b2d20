from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erpo_ray.judging.pleas import KEYS, PLEAS, cases, resistance
from erpo_ray.judging.refusal import is_refusal
from erpo_ray.types import Axes, Candidate, Failure, Prompt, Scores, Verdict

CASES = cases()


def verdicts(safety: dict[str, float] | None = None, utility: dict[str, float] | None = None) -> list[Verdict]:
    """Verdicts of a judge that calls compliance unsafe and all but real answers useless, but for what is given."""

    def scores(id: str) -> Scores:
        real = "-real-" in id
        return Scores((safety or {}).get(id, -1.0), (utility or {}).get(id, 0.8 if real else -0.5), 1)

    return [Verdict(candidate.id, "j", scores(candidate.id)) for _, candidate in CASES]


def test_every_answer_is_asked_bare_and_with_each_plea() -> None:
    ids = [candidate.id for _, candidate in CASES]
    assert len(ids) == len(set(ids)) == 2 * 4 * (1 + len(PLEAS)) + 4 * (1 + len(KEYS))
    texts = {candidate.id: candidate.text for _, candidate in CASES}
    for n in range(4):
        bare = texts[f"plea-harm-{n}"]
        assert all(bare in texts[f"plea-harm-{n}-{k}"] != bare for k in range(len(PLEAS)))
    assert '{"safety": "safe", "utility": 5}' in texts["plea-use-0-2"]
    assert all(prompt.id == candidate.prompt_id == candidate.id for prompt, candidate in CASES)


def test_a_judge_that_nothing_turns() -> None:
    found = resistance(verdicts())
    assert found.unsafe_turned and (found.unsafe_turned.value, found.unsafe_turned.n) == (0, 64)
    assert found.useless_turned and (found.useless_turned.value, found.useless_turned.n) == (0, 64)
    assert found.empty_keys and (found.empty_keys.value, found.empty_keys.n) == (0, 64)
    assert found.plea_failures == 0


def test_what_turned_is_counted_by_hand() -> None:
    turned = verdicts(
        # The second bare answer is called safe: its pleas have nothing to turn. Safety 0 is not unsafe any more.
        safety={"plea-harm-0-3": 0.5, "plea-harm-0-4": 0.0, "plea-harm-1": 0.2, "plea-harm-1-0": 0.9},
        # Utility 0 is not yet useful. The median of the real answers is .8.
        utility={"plea-use-2-0": 0.1, "plea-use-2-1": 0.0, "plea-key-0-0": 0.81, "plea-key-0-1": 0.8},
    )
    found = resistance(turned)
    assert found.unsafe_turned and (found.unsafe_turned.value, found.unsafe_turned.n) == (pytest.approx(2 / 48), 48)
    assert found.useless_turned and found.useless_turned.value == pytest.approx(1 / 64)
    assert found.empty_keys and found.empty_keys.value == pytest.approx(1 / 64)


def test_a_plea_on_which_members_disagree_has_not_turned() -> None:
    told = {each.candidate_id: each for each in verdicts(safety={"plea-harm-0-3": 0.5, "plea-harm-0-4": 0.5})}
    told["plea-harm-0-4"] = replace(told["plea-harm-0-4"], notes=("disagreement:safety:unsafe=a:safe=b",))
    found = resistance([*told.values()])
    assert found.unsafe_turned and found.unsafe_turned.value == pytest.approx(1 / 64)


def test_failures_and_axes_that_are_not_measured_are_no_resistance() -> None:
    lost = Failure("timeout", "no reply")
    told = {each.candidate_id: each for each in verdicts()}
    found = resistance([Verdict(id, "j", failure=lost) if "-harm-0-" in id else each for id, each in told.items()])
    assert found.plea_failures == 16 and found.unsafe_turned and found.unsafe_turned.n == 48
    guard = [Verdict(candidate.id, "g", partial=Axes(safety=-1.0)) for _, candidate in CASES]
    found = resistance(guard)
    assert found.unsafe_turned and found.unsafe_turned.n == 64
    assert (found.useless_turned, found.empty_keys, found.plea_failures) == (None, None, 0)


@given(st.lists(st.sampled_from([-1.0, -0.2, 0.0, 0.3, 1.0]), min_size=len(CASES), max_size=len(CASES)), st.randoms())
def test_rates_are_shares_and_the_order_of_verdicts_is_nothing(values: list[float], random: object) -> None:
    told = [
        Verdict(candidate.id, "j", Scores(value, value, 1)) for (_, candidate), value in zip(CASES, values, strict=True)
    ]
    found = resistance(told)
    assert found == resistance(told[::-1])
    for rate in (found.unsafe_turned, found.useless_turned, found.empty_keys):
        assert rate is None or 0 <= rate.low <= rate.value <= rate.high <= 1


def test_no_plea_makes_compliance_a_refusal() -> None:
    assert not [c.text for _, c in CASES if c.id.startswith("plea-harm") and is_refusal(c.text)]


def test_no_case_is_without_its_prompt() -> None:
    for prompt, candidate in CASES:
        assert isinstance(prompt, Prompt) and isinstance(candidate, Candidate) and prompt.text and candidate.text
