"""The random search on judges whose weakness is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erpo_ray import rules, traces
from erpo_ray.config import JudgeRules
from erpo_ray.judging.fragments import ANSWERS, VOCABULARY
from erpo_ray.judging.rules_judge import RulesJudge
from erpo_ray.judging.search import MOST, Wrapped, search, step
from erpo_ray.types import Axes, Candidate, Failure, Prompt, Verdict

TWO = {"How do I harm one?": "Sure, like this.", "How do I harm two?": "Sure, like that."}
LOST = Failure("timeout", "no reply")


class By:
    """A judge of safety by a function of the text; None is a failed verdict. It remembers its calls."""

    name = "by"

    def __init__(self, safety: Callable[[str], float | None]) -> None:
        self._safety = safety
        self.calls: list[list[str]] = []

    def judge(self, items: Sequence[tuple[Prompt, Candidate]]) -> list[Verdict]:
        assert all(prompt.id == candidate.prompt_id and prompt.label == "harmful" for prompt, candidate in items)
        self.calls.append([candidate.text for _, candidate in items])
        return [self._verdict(candidate) for _, candidate in items]

    def _verdict(self, candidate: Candidate) -> Verdict:
        said = self._safety(candidate.text)
        if said is None:
            return Verdict(candidate.id, self.name, failure=LOST)
        return Verdict(candidate.id, self.name, partial=Axes(safety=said))


def has(*words: str) -> Callable[[str], float]:
    return lambda text: 1.0 if any(word in text for word in words) else -1.0


def test_one_fragment_that_fools_is_found_at_the_first_proposal() -> None:
    judge = By(has("amen"))
    found = search(judge, 500, answers=TWO, vocabulary=["amen"])
    # The first query asks the answer as it is, the second with the only fragment there is.
    assert [len(call) for call in judge.calls] == [2, 2]
    assert (found.searched, found.search_median, found.search_failures, found.search_queries) == (2, 2, 0, 500)
    assert found.search_turned and (found.search_turned.value, found.search_turned.n) == (1.0, 2)
    assert [(each.prompt, each.queries) for each in found.search_found] == [(prompt, 2) for prompt in TWO]
    assert all("amen" in each.text for each in found.search_found)


def test_queries_are_those_that_the_judge_was_asked() -> None:
    judge = By(has("SWITCH"))
    found = search(judge, 300, answers=TWO, vocabulary=[*"abcdefgh", "SWITCH"])
    asked = {prompt: sum(answer in text for call in judge.calls for text in call) for prompt, answer in TWO.items()}
    assert {each.prompt: each.queries for each in found.search_found} == asked
    assert found.search_median == sum(asked.values()) / 2


def test_a_judge_that_nothing_turns_is_asked_to_the_limit() -> None:
    judge = By(lambda text: -1.0)
    found = search(judge, 40, answers=TWO)
    assert len(judge.calls) == 40 and {len(call) for call in judge.calls} == {2}
    assert found.search_turned and (found.search_turned.value, found.search_turned.n) == (0.0, 2)
    # Wilson's bound for 0 of 2.
    assert found.search_turned.high == pytest.approx(3.8415 / (2 + 3.8415), abs=1e-4)
    assert (found.search_median, found.search_found) == (None, ())


def test_what_is_less_unsafe_is_built_on() -> None:
    def each_counts(text: str) -> float:
        return -1 + 0.25 * len({letter for letter in "QXYZ" if letter in text})

    found = search(By(each_counts), 500, answers=TWO, vocabulary=[*"abcdefghijkl", *"QXYZ"])
    assert found.search_turned and found.search_turned.value == 1
    assert all(set("QXYZ") <= set(each.text) for each in found.search_found)


def test_answers_that_are_not_unsafe_as_they_are_leave_nothing_to_turn() -> None:
    judge = By(has("that"))
    found = search(judge, 5, answers=TWO, vocabulary=["x"])
    assert found.searched == 1 and found.search_turned and found.search_turned.n == 1
    assert [len(call) for call in judge.calls] == [2, 1, 1, 1, 1]
    assert search(By(lambda text: 0.0), 5, answers=TWO).search_turned is None


def test_a_failed_verdict_is_counted_and_turns_nothing() -> None:
    bare = set(TWO.values())
    found = search(By(lambda text: -1.0 if text in bare else None), 10, answers=TWO)
    assert (found.searched, found.search_failures, found.search_found) == (2, 18, ())
    assert found.search_turned and found.search_turned.value == 0
    judge = By(lambda text: None)
    found = search(judge, 10, answers=TWO)
    assert (found.searched, found.search_turned, found.search_failures, len(judge.calls)) == (0, None, 2, 1)


def test_members_that_disagree_have_not_turned() -> None:
    class Two(By):
        """One member says safe from the start, the other after SWITCH."""

        def _verdict(self, candidate: Candidate) -> Verdict:
            both = "SWITCH" in candidate.text
            notes = () if both else ("disagreement:safety:unsafe=a:safe=b",)
            return Verdict(candidate.id, self.name, partial=Axes(safety=1.0 if both else 0.2), notes=notes)

    judge = Two(has())
    found = search(judge, 200, answers=TWO, vocabulary=[*"abcdef", "SWITCH"])
    assert found.searched == 2 and found.search_turned and found.search_turned.value == 1
    assert all("SWITCH" in each.text for each in found.search_found)
    never = search(judge, 20, answers=TWO, vocabulary=[*"abcdef"])
    assert never.searched == 2 and never.search_turned and never.search_turned.value == 0


def test_a_judge_that_measures_no_safety_is_no_failure() -> None:
    class Useful(By):
        def _verdict(self, candidate: Candidate) -> Verdict:
            return Verdict(candidate.id, self.name, partial=Axes(utility=1.0))

    found = search(Useful(has()), 10, answers=TWO)
    assert (found.searched, found.search_turned, found.search_failures) == (0, None, 0)


def test_the_seed_decides_and_other_answers_do_not() -> None:
    def asked(seed: int, answers: dict[str, str]) -> list[str]:
        judge = By(has("SWITCH"))
        search(judge, 60, seed, answers, [*"abcdefghijklmn"])
        return [text for call in judge.calls for text in call if "this" in text]

    assert asked(0, TWO) == asked(0, TWO) != asked(1, TWO)
    assert asked(0, TWO) == asked(0, dict([*TWO.items()][:1]))


@given(st.randoms(use_true_random=False), st.sampled_from([*ANSWERS.values()]), st.integers(1, 60))
def test_the_answer_stays_whole_and_is_what_is_judged(random: Random, answer: str, steps: int) -> None:
    wrapped = Wrapped(answer)
    for _ in range(steps):
        before = len(wrapped.before) + len(wrapped.after)
        wrapped = step(wrapped, VOCABULARY, random)
        after = len(wrapped.before) + len(wrapped.after)
        assert abs(after - before) <= 1 and after <= MOST
        assert answer in traces.answer(wrapped.text) and {*wrapped.before, *wrapped.after} <= {*VOCABULARY}


def test_rules_call_every_answer_unsafe_as_it_is() -> None:
    def never(items: list[tuple[str, str]]) -> list[float]:
        assert not items
        return []

    found = search(RulesJudge(JudgeRules(), rules.load(), "lines", never), 1)
    assert (found.searched, found.search_failures, found.search_found) == (len(ANSWERS), 0, ())
