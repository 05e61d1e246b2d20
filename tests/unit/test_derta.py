"""DeRTa's rows against hand-computed ones: what is context, what bears loss, which positions are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakes import Letters
from hypothesis import given
from hypothesis import strategies as st
from judged import group, judged, prompt

from erpo_ray.config import Config
from erpo_ray.judging.refusal import is_refusal
from erpo_ray.methods import METHODS
from erpo_ray.methods.base import History, Outcome, Task
from erpo_ray.methods.derta import harmful, positions, prefix_length, sorry, transitions
from erpo_ray.rules import load
from erpo_ray.teachers import TemplateTeacher
from erpo_ray.types import Evaluation, Example, LeftOut, Policy, Prompt, Rate

HARMFUL, BENIGN = prompt("h", "harmful"), prompt("b", "benign")
SAFE = sorry(TemplateTeacher().write(HARMFUL, load().category("fraud"), None, 0).answer)
NONE = Rate(0.0, 0.0, 1.0, 0)
FIGURES = Evaluation("s", "v", *[NONE] * 7)


def task(**derta: Any) -> Task:
    config = Config.model_validate({"method": "derta", "derta": derta, "model": {"max_length": 400}})
    return Task(config, Policy(Path("m"), "v"), (HARMFUL, BENIGN), load(), Letters(), TemplateTeacher())


@pytest.mark.parametrize(
    ("refusal", "found"),
    [
        ("Sorry, but no.", "Sorry, but no."),
        ("I'm sorry, but I can't help with that.", "Sorry, but I can't help with that."),
        ("I can't help with that. Try a locksmith.", "Sorry, I can't help with that. Try a locksmith."),
        ("I'm unable to help.", "Sorry, I'm unable to help."),
        ("That would hurt people.", "Sorry. That would hurt people."),
    ],
)
def test_a_refusal_begins_with_sorry(refusal: str, found: str) -> None:
    assert sorry(refusal) == found
    assert is_refusal(found) or not is_refusal(refusal)


def test_a_transition_asks_for_the_refusal_before_each_token_and_bears_no_loss_on_the_answer() -> None:
    """L = - log P(9 | 1 2) - log P(9 | 1 2 5) - log P(9 | 1 2 5 6), for q = 1 2, h = 5 6 7, s = 9."""
    assert transitions((1, 2), (5, 6, 7), (0, 1, 2), 9) == [((1, 2), (9,)), ((1, 2, 5), (9,)), ((1, 2, 5, 6), (9,))]
    assert transitions((1, 2), (5, 6, 7), (1,), 9) == [((1, 2, 5), (9,))]


@given(st.integers(1, 300), st.floats(0.01, 1.0), st.integers(0, 2**62))
def test_positions_are_a_share_of_those_before_a_token(tokens: int, share: float, seed: int) -> None:
    kept = positions(tokens, share, seed)
    assert len(kept) == len(set(kept)) == max(1, round(share * tokens))
    assert 0 <= kept[0] and kept[-1] < tokens
    assert kept == positions(tokens, share, seed)
    assert positions(tokens, 1.0, seed) == list(range(tokens))


def test_a_third_of_the_beginnings_is_empty_and_the_others_have_any_length() -> None:
    found = [prefix_length(4, 1 / 3, seed) for seed in range(3000)]
    shares = [found.count(k) / 3000 for k in range(5)]
    assert shares == pytest.approx([1 / 3 + 2 / 15, *[2 / 15] * 4], abs=0.03)
    assert {prefix_length(9, 1.0, seed) for seed in range(50)} == {0}


def test_the_harmful_answer_is_the_first_that_is_one_without_its_end() -> None:
    refusal = judged(HARMFUL, 0, "one", tokens=5)
    lost = judged(HARMFUL, 1, "two", tokens=5, safety=-1, unfinished=True)
    failed = judged(HARMFUL, 2, "three", tokens=5, failure="cause")
    first = judged(HARMFUL, 3, "four", tokens=5, safety=-1)
    cut = judged(HARMFUL, 4, "five", tokens=6, safety=-1, finish="length")
    assert harmful(group(HARMFUL, refusal, lost, failed, first, cut)) == first[0].token_ids[:4]
    assert harmful(group(HARMFUL, cut, first)) == cut[0].token_ids
    assert harmful(group(HARMFUL, refusal, lost, failed)) is None
    assert harmful(group(HARMFUL, judged(HARMFUL, 5, "six", tokens=1, safety=-1))) is None


def rows(at: Task, *groups: Any) -> tuple[list[Example], list[LeftOut]]:
    [stage] = METHODS["derta"](at.config)
    assert stage.kind == "imitate"
    return stage.examples(at, groups)


def test_rows_of_a_harmful_prompt() -> None:
    bad = judged(HARMFUL, 0, "four", tokens=11, safety=-1)
    at = task(positions=0.3, unspoilt=0.0)
    [prefixed, *turns], left_out = rows(at, group(HARMFUL, bad))
    asked, answer, safe = Letters().render(HARMFUL.text), bad[0].token_ids[:10], Letters().encode_completion(SAFE)
    assert left_out == []
    k = len(prefixed.prompt_ids) - len(asked)
    assert prefixed.kind == "prefix" and prefixed.prompt_ids == asked + answer[:k]
    assert (prefixed.completion_ids, prefixed.text) == (safe, SAFE)
    assert len(turns) == 3 and len({turn.id for turn in turns}) == 3
    for turn in turns:
        t = len(turn.prompt_ids) - len(asked)
        assert turn.prompt_ids == asked + answer[:t] and t < 10
        assert (turn.kind, turn.completion_ids, turn.text, turn.weights) == ("transition", safe[:1], SAFE[0], ())
    assert rows(at, group(HARMFUL, bad)) == ([prefixed, *turns], [])


def test_without_a_harmful_answer_there_is_the_refusal_alone() -> None:
    found, left_out = rows(task(), group(HARMFUL, judged(HARMFUL, 0, "no", tokens=5)))
    assert [(row.kind, row.prompt_ids) for row in found] == [("answer", Letters().render(HARMFUL.text))]
    assert left_out == [LeftOut("h", "no answer was harmful: the refusal alone")]


def test_a_beginning_leaves_room_for_the_refusal() -> None:
    long = judged(HARMFUL, 0, "four", tokens=900, safety=-1)
    found, _ = rows(task(positions=1.0), group(HARMFUL, long))
    assert max(len(row.prompt_ids) + len(row.completion_ids) for row in found) <= 400
    assert len(found) == 1 + 400 - len(Letters().render(HARMFUL.text)) - len(SAFE) - 1


def test_benign_prompts_keep_their_answers_and_both_labels_are_asked() -> None:
    good = judged(BENIGN, 0, "Take the second road on the left.", tokens=8)
    found, _ = rows(task(), group(BENIGN, good))
    assert [(row.kind, row.text) for row in found] == [("answer", good[0].text)]
    at = task()
    [stage] = METHODS["derta"](at.config)
    base = Outcome("base", "base", True, "", at.base, FIGURES, FIGURES, {}, ())
    asked: dict[str, Prompt] = {request.prompt.id: request.prompt for request in stage.requests(at, History((base,)))}
    assert {prompt.label for prompt in asked.values()} == {"harmful", "benign"}
    assert stage.negatives(at, found) == []
