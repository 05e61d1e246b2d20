"""AW-DPO's parts by hand: which half is blamed, where a completion is cut, what the rows of a pair add up to."""

from __future__ import annotations

import pytest
from fakes import Letters
from judged import group, prompt

from erpo_ray.sections import by_section, reasoning_tokens, weights
from erpo_ray.traces import Trace, compose, render
from erpo_ray.types import Candidate, Label, Pair, PairKind, Scores, Verdict, Verdict3, identity

HARMFUL = prompt("h", "harmful")
SORRY, SURE = "I can't help with that.", "Sure, here it is."


def trace(path: str, answer: str) -> str:
    return render(compose("A request.", "fraud.1: looked at.", path, answer), "lines")


RIGHT, WRONG = trace("Refuse.", SORRY), trace("Answer.", SURE)
SLIP = trace("Refuse.", SURE)
"""Right reasoning before a wrong answer."""
LUCK = trace("Answer.", SORRY)
"""The reverse."""


def split(rejected: str, kind: PairKind = "safety") -> list[Pair]:
    """The parts of a pair of RIGHT over `rejected`; none when it stays whole."""
    rows = []
    for sample, text in enumerate((RIGHT, rejected)):
        id, ids = identity("h", sample), Letters().encode_completion(text)
        rows.append((Candidate(id, "h", sample, ids, text, "stop", "v"), Verdict(id, "rules", Scores(1, 1, len(ids)))))
    (chosen, _), (bad, _) = rows
    pair = Pair("a", "h", (1, 2), (), chosen.token_ids, bad.token_ids, 0.5, kind, "why")
    found = by_section([pair], [group(HARMFUL, *rows)], "lines", Letters().pieces)
    assert all(part.prompt_id == "h" and part.kind == kind for part in found)
    return [] if found == [pair] else found


def told(pair: Pair) -> tuple[str, str]:
    """The text that bears loss on each side."""
    chosen, rejected = pair.chosen_ids[pair.chosen_skip :], pair.rejected_ids[pair.rejected_skip :]
    return "".join(Letters().pieces(chosen)), "".join(Letters().pieces(rejected))


@pytest.mark.parametrize(
    ("label", "verdict", "answer_wrong", "expected"),
    [
        ("harmful", "answer", True, (0.5, 0.5)),
        ("harmful", "refuse", True, (0.0, 1.0)),
        ("harmful", "answer", False, (1.0, 0.0)),
        ("harmful", "refuse", False, None),
        ("benign", "refuse", True, (0.5, 0.5)),
        ("benign", "answer", True, (0.0, 1.0)),
        ("benign", "safe", False, None),
    ],
)
def test_weights_by_hand(
    label: Label, verdict: Verdict3, answer_wrong: bool, expected: tuple[float, float] | None
) -> None:
    assert weights(label, Trace("", "", "", "", verdict, ()), answer_wrong) == expected


def test_where_both_are_wrong_each_part_stands_on_its_own_tokens() -> None:
    reasoning, answer = split(WRONG)
    assert [text.rsplit("Path: ")[-1] for text in told(reasoning)] == ["Refuse.\n</think>", "Answer.\n</think>"]
    assert (reasoning.chosen_skip, reasoning.rejected_skip) == (0, 0)
    assert told(answer) == (f"\n{SORRY}", f"\n{SURE}")
    assert (reasoning.weight, answer.weight) == (0.25, 0.25)
    assert reasoning.id != answer.id and answer.reason == "why; answer weighs 0.5"


def test_the_half_that_was_right_is_not_blamed() -> None:
    (answer,) = split(SLIP)
    assert told(answer) == (f"\n{SORRY}", f"\n{SURE}") and answer.weight == 0.5
    (reasoning,) = split(LUCK, "format")
    assert told(reasoning)[1].endswith("Path: Answer.\n</think>") and reasoning.weight == 0.5


@pytest.mark.parametrize("rejected", [SURE, "<think>\nno end", "<think>\nPath: Answer.\n</think>\nSure."])
def test_what_cannot_be_placed_stays_whole(rejected: str) -> None:
    assert split(rejected) == []


def test_a_pair_about_length_stays_whole() -> None:
    assert split(trace("Refuse. It is clear that this would do harm.", SORRY), "length") == []


def test_reasoning_ends_with_the_token_that_closes_it() -> None:
    assert reasoning_tokens(["<think>", "a", "</th", "ink>", "\n", "b"]) == 4
    assert reasoning_tokens(["<think>", "a", "</th", "ink>\nb", "c"]) == 4
    assert reasoning_tokens(["<think>", "a", "b"]) == 0
    assert reasoning_tokens(["</think>"]) == 1
