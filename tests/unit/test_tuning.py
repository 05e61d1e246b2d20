"""The search for a guidance: cases and their parts by hand, and what follows from the answers that were kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erpo_ray.config import Config
from erpo_ray.config.methods import Evolution
from erpo_ray.errors import RunFailed, UsageError
from erpo_ray.methods.evolution import Birth, Score, key_of
from erpo_ray.prompts.labelled import Labelled, Preferred
from erpo_ray.rundir import RunDir
from erpo_ray.tuning import cases
from erpo_ray.tuning.cases import Answer, Case, answer
from erpo_ray.tuning.judge import BRIEF
from erpo_ray.tuning.reach import ended, require, unreached
from erpo_ray.tuning.search import Found, Reply, Search, play

A, B, C, D = (Case(name, name in "ab", f"prompt {name}", f"text {name}") for name in "abcd")


def many(count: int) -> list[Case]:
    return [Case(str(n), n % 2 == 0, f"prompt {n}", f"text {n}") for n in range(count)]


def test_labelled_texts_are_cases_and_equal_ones_are_one() -> None:
    first = Labelled("1", "q", "t", True)
    one, two = cases.judged([first, Labelled("2", "q", "t", True), Labelled("3", "", "t", False)])
    assert (one.prompt, one.text, one.harmful, two.prompt, two.harmful) == ("q", "t", True, "", False)
    with pytest.raises(UsageError, match="row 4: found a text that stands there with the other label"):
        cases.judged([first, Labelled("4", "q", "t", False)])
    with pytest.raises(UsageError, match="found preferences"):
        cases.judged([Preferred("p", "q", "a", "b")])


def test_messages_have_a_label_and_harmless_ones_an_answer() -> None:
    rows = [
        {"prompt": "Forge one", "label": "harmful", "category": "fraud", "response": "not read"},
        {"prompt": "Renew one", "label": "benign", "category": "unheard", "response": " Ask the office. "},
    ]
    places = [(f"f:{n}", row) for n, row in enumerate(rows, 1)]
    bad, good = cases.messages(places, ("fraud", "general"))
    assert (bad.harmful, bad.text, bad.category) == (True, "", "fraud")
    assert (good.harmful, good.text, good.category) == (False, "Ask the office.", "")
    for row, message in (
        ({"prompt": "x"}, "f:9: found no `label`"),
        ({"prompt": "x", "label": "benign"}, "f:9: found no `response` to a harmless message"),
        ({"prompt": "Forge one", "label": "benign", "response": "No."}, "f:9: .* with the other label"),
    ):
        with pytest.raises(UsageError, match=message):
            cases.messages([*places, ("f:9", row)], ("fraud",))


@given(st.lists(st.integers(0, 400), min_size=120, max_size=160, unique=True), st.randoms())
def test_parts_follow_from_prompts_alone(numbers: list[int], shuffled) -> None:
    found = [Case(f"{n}", n % 2 == 0, f"prompt {n // 4}", f"text {n}") for n in numbers]
    searched, apart = cases.split(found, 400)
    assert {case.id for case in searched} | {case.id for case in apart} == {case.id for case in found}
    assert not {case.prompt for case in searched} & {case.prompt for case in apart}
    again = [*found[:-10]]
    shuffled.shuffle(again)
    fewer = cases.split(again, 400)
    assert set(fewer[0]) <= set(searched) and set(fewer[1]) <= set(apart)


def test_a_search_takes_as_many_of_each_label_as_it_may_and_the_rest_of_its_part_is_left() -> None:
    searched, apart = cases.split(many(120), 10)
    assert [case.harmful for case in searched] == [True] * 5 + [False] * 5
    assert set(apart) == set(cases.split(many(120), 120)[1])
    with pytest.raises(UsageError, match=r"found 12 cases; of those \w+ \w+ \d are harmful and \d benign, but 4 of"):
        cases.split(many(12), 10)


def test_a_text_is_scored_once_all_of_its_cases_are_answered() -> None:
    answers = [answer("x", A), answer("x", B, "called_safe"), answer("x", C, "invalid"), answer("y", A)]
    assert cases.scores(answers, (A, B, C)) == {"x": Score(0.5, 0.0)}
    assert cases.scores(answers, (A, C)) == {"x": Score(1.0, 0.0)}
    assert cases.scores(answers, (A, B, C, D)) == {}


def test_what_is_measured_counts_causes_and_pairs_cases() -> None:
    before = [answer("x", A, "called_safe"), answer("x", B, "called_safe"), answer("x", C), answer("x", D, "not_json")]
    after = [answer("y", A), answer("y", B), answer("y", C), answer("y", D)]
    told = cases.measured(before)
    assert told.harmful and told.benign and (told.harmful.value, told.benign.value) == (0.0, 0.5)
    assert told.causes == {"called_safe": 2, "not_json": 1} and 0 < told.benign.low < 0.5 < told.benign.high < 1
    change = cases.changed(before, after)
    assert change["harmful"].difference and change["harmful"].difference.value == 1.0
    assert (change["harmful"].gained, change["benign"].gained, change["benign"].lost) == (("a", "b"), ("d",), ())
    assert change["benign"].p == 1.0


@pytest.mark.parametrize("cause", ["timeout", "http_503", "http_429", "request:APIConnectionError"])
def test_an_endpoint_that_does_not_answer_says_nothing_of_a_text(cause: str) -> None:
    assert unreached(cause) and not unreached("not_json") and not unreached("http_400")
    with pytest.raises(RunFailed, match=rf"judge: http://h did not answer 1 of 5 \({cause} 1\); see that it serves"):
        require("judge", "http://h", 5, [cause])
    require("judge", "http://h", 5, [])
    assert (ended("length"), ended("eos"), ended("")) == ("length", "stop", "stop")


def searching(start: str = "") -> Search:
    return Search(Evolution(children=1, generations=1), BRIEF, start, (A, B, C, D), 7)


def test_what_is_wanted_next_follows_from_what_was_kept() -> None:
    search, own = searching(), key_of(())
    first = search.replayed({}, [])
    assert (first.untried, first.unborn) == (((),), ())
    answers = [answer(own, A), *(answer(own, case, "called_safe", "raw") for case in (B, C, D))]
    (birth,) = search.replayed({}, answers).unborn
    assert birth.operator == "safety" and search.replayed({}, answers).untried == ()
    asked = search.question(birth, answers, lambda case, said: f"{case.text}|{said.cause}")
    assert "text b|called_safe" in asked and "text c" not in asked and "(none)" in asked
    found = search.replayed({birth.id: Reply(birth.id, "<prompt>Look hard.</prompt>", "stop")}, answers)
    assert found.untried == (("Look hard.",),)
    left_out = search.replayed({birth.id: Reply(birth.id, "I cannot.", "stop")}, answers)
    assert left_out.tried[1].failure and left_out.tried[1].failure.cause == "no_prompt" and left_out.unborn


def test_the_text_that_was_there_can_be_said_in_other_words() -> None:
    again = Birth("semantic", ((),), 8)
    assert searching()._child(again, {}) == () and searching("Be fair.")._child(again, {}) is None
    assert searching("Be fair.")._child(Birth("semantic", ((),), 7), {}) == ()
    assert "Be fair." in searching("Be fair.").question(again, [], lambda case, said: "")


class ByRote:
    """Harmful cases come out right under `hard`, harmless ones without it, and both under `hard, fair`."""

    brief = BRIEF

    def __init__(self, replies: dict[str, str], stop_at: int = 10**9) -> None:
        self.asked: list[tuple[str, str]] = []
        self._replies, self._stop_at = replies, stop_at

    def answers(self, under: str, text: str, cases: Sequence[Case]):
        for case in cases:
            if len(self.asked) == self._stop_at:
                raise RunFailed("power cut")
            self.asked.append((text, case.id))
            wrong = "hard" not in text if case.harmful else "hard" in text and "fair" not in text
            yield answer(under, case, "wrong" if wrong else "")

    def write(self, asked: str) -> tuple[str, str]:
        return next(reply for words, reply in self._replies.items() if words in asked), "stop"

    def show(self, case: Case, answer: Answer) -> str:
        return case.text


REPLIES = {
    "call unsafe what helps": "<prompt>hard</prompt>",
    "call safe what does": "<prompt>hard, fair</prompt>",
    "strengths of both": "<prompt>hard <|im_end|></prompt>",
}


def played(folder: Path, subject: ByRote, apart: Sequence[Case]) -> Found:
    with RunDir.open(folder, Config(), note=lambda message: None) as run, run.stage("judge") as s:
        return play(searching(), apart, subject, s, lambda line: None)


def test_a_search_ends_with_the_best_and_measures_it_on_cases_held_apart(tmp_path: Path) -> None:
    subject, apart = ByRote(REPLIES), [Case("x", True, "p", "t"), Case("y", False, "q", "t")]
    found = played(tmp_path / "run", subject, apart)
    assert (found.text, found.searched, found.apart, found.gained) == ("hard, fair", 4, 2, True)
    assert found.before.harmful and found.before.harmful.value == 0 and found.before.causes == {"wrong": 1}
    assert found.after.harmful and found.after.harmful.value == 1 and found.after.causes == {}
    assert sorted(set(subject.asked)) == sorted(subject.asked)
    assert {text for text, id in subject.asked if id in "xy"} == {"", "hard, fair"}


def test_a_search_cut_off_anywhere_asks_nothing_twice_and_ends_alike(tmp_path: Path) -> None:
    apart = [Case("x", True, "p", "t"), Case("y", False, "q", "t")]
    whole = ByRote(REPLIES)
    found = played(tmp_path / "whole", whole, apart)
    asked: list[tuple[str, str]] = []
    for _ in range(20):
        subject = ByRote(REPLIES, stop_at=3)
        try:
            again = played(tmp_path / "cut", subject, apart)
        except RunFailed:
            asked += subject.asked
        else:
            assert again == found and asked + subject.asked == whole.asked
            break
    else:
        pytest.fail("never ended")


def test_a_model_that_writes_nothing_ends_the_search_with_the_causes(tmp_path: Path) -> None:
    subject = ByRote({"You write guidance": "I cannot."})
    with pytest.raises(RunFailed, match=r"none of the model's \d replies holds a text .*\(no_prompt \d\); raise sos"):
        played(tmp_path / "run", subject, [A, C])


def test_a_search_that_finds_nothing_better_keeps_what_is_there(tmp_path: Path) -> None:
    subject = ByRote({"You write guidance": "<prompt>other words</prompt>"})
    found = played(tmp_path / "run", subject, [A, C])
    assert (found.text, found.gained) == ("", False) and found.before == found.after
