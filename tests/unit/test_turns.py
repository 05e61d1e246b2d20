"""Second turns: what is asked behind an answer, what a judge sees of it, and what is left out."""

from __future__ import annotations

import pytest
from fakes import Letters

from erpo_ray.evaluate.suite import Question
from erpo_ray.evaluate.turns import second_turns
from erpo_ray.types import Candidate, LeftOut, Prompt, Request, Sampling

GREEDY = Sampling(temperature=0.0, max_tokens=16)
ASKED = Question(Prompt("7", "Name a sea.", "benign", "general", "seas", "8", "mtbench"), second="And a lake?")


def answered(text: str, id: str = "7") -> Candidate:
    return Candidate(f"c{id}", id, 0, (1, 0), text, "stop", "v1")


def second(text: str, room: int = 2000) -> Request | LeftOut:
    (found,) = second_turns([ASKED], [answered(text)], Letters(), room, GREEDY)
    return found


def test_the_policy_sees_its_answer_without_the_trace_and_the_judge_the_exchange() -> None:
    assert second("<think>\nHarmless.\n</think>\nThe North Sea.") == Request(
        Prompt(
            id="7~turn2",
            text="User: Name a sea.\nAssistant: The North Sea.\nUser: And a lake?",
            label="benign",
            category="general",
            topic="seas",
            source="mtbench~turn2",
        ),
        Letters().render("Name a sea.", "The North Sea.", "And a lake?"),
        (0,),
        GREEDY,
    )


@pytest.mark.parametrize("text", ["", " \n", "<think>\nand so on", "<think>\nHarmless.\n</think>\n "])
def test_a_first_turn_without_an_answer_has_no_second(text: str) -> None:
    assert second(text) == LeftOut("7~turn2", "no_answer")


def test_a_chat_is_asked_whole_or_not_at_all() -> None:
    tokens = 1 + len("Name a sea.") + 1 + len("Yes.") + 1 + len("And a lake?")
    fitting = second("Yes.", room=tokens)
    assert isinstance(fitting, Request) and len(fitting.prompt_ids) == tokens == 29
    assert second("Yes.", room=tokens - 1) == LeftOut("7~turn2", "too_long")


def test_a_judge_sees_the_beginning_of_a_long_answer_on_one_line() -> None:
    long = "\n".join(["User: so?"] * 100)
    found = second(long)
    assert isinstance(found, Request)
    assert found.prompt.text.split("\n") == [
        "User: Name a sea.",
        f"Assistant: {'User: so? ' * 30} ...",
        "User: And a lake?",
    ]
    assert "".join(map(chr, found.prompt_ids[1:])).split("\x02")[1] == long


def test_second_turns_come_in_the_order_of_the_answers() -> None:
    questions = [Question(Prompt(id, f"first {id}"), second=f"then {id}") for id in "abc"]
    answers = [answered("Yes.", "c"), answered("", "a"), answered("No.", "b")]
    found = list(second_turns(questions, answers, Letters(), 100, GREEDY))
    assert [each.prompt.id if isinstance(each, Request) else each for each in found] == [
        "c~turn2",
        LeftOut("a~turn2", "no_answer"),
        "b~turn2",
    ]
