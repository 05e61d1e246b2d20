from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import Letters

from erpo_ray import synthesis
from erpo_ray.config import Config
from erpo_ray.methods.base import Task
from erpo_ray.rules import load
from erpo_ray.teachers import TemplateTeacher
from erpo_ray.traces import Trace, compose, render, split
from erpo_ray.types import Candidate, Failure, Group, LeftOut, Policy, Prompt, Scores, Verdict

BOOK = load()
TEACHER = TemplateTeacher()
ANSWER = "Take it to the office and ask for a new one."
FORGE = Prompt("h", "How do I forge a passport?", "harmful", "fraud", "forged documents")
RENEW = Prompt("b", "How do I renew a passport?", "benign", "fraud", "forged documents")
EGGS = Prompt("e", "How long do I boil eggs?", "benign")


def write(prompt: Prompt, seed: int = 0) -> Trace:
    category = BOOK.category(prompt.category)
    return TEACHER.write(prompt, category, None if prompt.label == "harmful" else ANSWER, seed)


def reasoning(trace: Trace) -> str:
    return split(render(trace, "lines"))[0] or ""


def words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"rules": "fraud.99: violated."}, "unknown_rule:fraud.99"),
        ({"rules": "hate.1: violated."}, "foreign_rule:hate.1"),
        ({"rules": "fraud.3 and general.6: violated."}, ""),
        ({"rules": "All rules are violated."}, "no_rules"),
        ({"path": "Answer."}, "label_disagrees"),
        ({"answer": "Sure, here is how: use the small press."}, "verdict_disagrees"),
        ({"assessment": "word " * 40}, "too_long"),
        ({"answer": "I can't help with that. " + "Sorry. " * 60}, ""),
        ({"answer": ""}, "empty_answer"),
    ],
)
def test_filters_name_what_is_wrong(change: dict[str, str], cause: str) -> None:
    texts = {
        "assessment": "Forging.",
        "rules": "fraud.3: violated.",
        "path": "Refuse.",
        "answer": "I can't help with that.",
    }
    text = render(compose(**(texts | change)), "lines")
    found = synthesis.check(text, FORGE, BOOK, "lines", 30, words)
    assert found == (Failure(cause, text) if cause else None)


def test_refusal_wording_in_the_reasoning_about_a_harmless_prompt_is_filtered() -> None:
    text = render(compose("This is not illegal.", "fraud.3: met.", "Answer.", ANSWER), "lines")
    found = synthesis.check(text, RENEW, BOOK, "lines", 30, words)
    assert found and found.cause == "refusal_wording"
    refused = render(compose("Fine.", "fraud.3: met.", "Refuse.", "I can't help with that."), "lines")
    found = synthesis.check(refused, RENEW, BOOK, "lines", 30, words)
    assert found and found.cause == "label_disagrees"


# Examples


def group(*answers: tuple[str, float | None, bool, str]) -> Group:
    candidates = tuple(
        Candidate(str(n), "b", n, (1,), text, finish, "p") for n, (text, _, _, finish) in enumerate(answers)
    )
    verdicts = tuple(
        Verdict(str(n), "j", Scores(1.0, score, len(text)), refused=refused)
        if score is not None
        else Verdict(str(n), "j", failure=Failure("boom"))
        for n, (text, score, refused, _) in enumerate(answers)
    )
    return Group(RENEW, (1,), candidates, verdicts)


@pytest.mark.parametrize(
    ("answers", "best"),
    [
        ([("Long but equal answer.", 0.5, False, "stop"), ("Short answer.", 0.5, False, "stop")], "Short answer."),
        ([("Good one.", 0.9, False, "stop"), ("Bad.", 0.1, False, "stop")], "Good one."),
        ([("I can't.", 0.9, True, "stop"), ("Fine answer.", 0.0, False, "stop")], "Fine answer."),
        ([("First take 2 eggs. Then boil for 4.5 min", 0.5, False, "length")], "First take 2 eggs."),
        ([("Then it goes on and", 0.5, False, "length")], None),
        ([("<think>a</think>Only this.", 0.5, False, "stop")], "Only this."),
    ],
)
def test_the_best_answer_is_useful_whole_and_short(
    answers: list[tuple[str, float | None, bool, str]], best: str | None
) -> None:
    found, left_out = synthesis.best_answers([group(*answers)], 0.0)
    assert found == ({"b": best} if best else {})
    assert left_out == ([] if best else [LeftOut("b", "no answer useful enough")])


@pytest.mark.parametrize(("safety", "notes"), [(-1.0, ()), (0.0, ()), (1.0, ("disagreement:safety:unsafe=a:safe=b",))])
def test_what_is_unsafe_or_disputed_is_not_imitated(safety: float, notes: tuple[str, ...]) -> None:
    judged = group(("Best of all.", 1.0, False, "stop"), ("Fair enough.", 0.1, False, "stop"))
    best, fair = judged.verdicts
    best = replace(best, scores=Scores(safety, 1.0, 12), notes=notes)
    assert synthesis.best_answers([replace(judged, verdicts=(best, fair))], 0.0) == ({"b": "Fair enough."}, [])


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([("x", None, False, "stop")], "no answer could be judged"),
        ([("x", None, False, "stop"), ("I can't.", -1.0, True, "stop")], "every answer refused"),
        ([("x", -0.5, False, "stop")], "no answer useful enough"),
    ],
)
def test_a_group_without_answer_is_left_out(answers: list[tuple[str, float | None, bool, str]], reason: str) -> None:
    assert synthesis.best_answers([group(*answers)], 0.0) == ({}, [LeftOut("b", reason)])


def task(**changes: Any) -> Task:
    config = Config.model_validate(changes)
    return Task(config, Policy(Path("m"), "v"), (FORGE, RENEW, EGGS), BOOK, Letters(), TEACHER)


def test_examples_hold_the_rendered_trace_in_tokens() -> None:
    rows, left_out = synthesis.examples(
        task(), (FORGE, RENEW, EGGS), {"b": ANSWER}, [LeftOut("e", "every answer refused")]
    )
    assert [row.prompt_id for row in rows] == ["h", "b"]
    assert left_out == [LeftOut("e", "every answer refused")]
    assert rows[0].text == render(write(FORGE), "lines")
    assert rows[0].completion_ids == Letters().encode_completion(rows[0].text)
    assert rows[1].prompt_ids == Letters().render(RENEW.text) and rows[1].kind == "template"
    assert rows[1].text.endswith(f"</think>\n{ANSWER}")


def test_what_decides_weighs_more_and_weights_average_one() -> None:
    rows, _ = synthesis.examples(task(imitate={"decision_weight": 8}), (FORGE, RENEW), {"b": ANSWER}, [])
    for row, word in zip(rows, ("Harmful", "Harmless"), strict=True):
        assert sum(row.weights) == pytest.approx(len(row.completion_ids), abs=0.01 * len(row.completion_ids))
        heavy = [at for at, weight in enumerate(row.weights) if weight > row.weights[0]]
        verdict, answer = row.text.index("\nPath: ") + 7, row.text.index("</think>\n") + 9
        assert heavy == [row.text.index(word) + len(word) - 1, verdict, answer]
        assert [row.weights[at] for at in heavy] == pytest.approx([8 * row.weights[0]] * 3, rel=1e-3)


def test_a_teacher_of_other_words_weighs_verdict_and_answer() -> None:
    class Other(TemplateTeacher):
        def write(self, prompt: Prompt, *_: Any) -> Trace:
            return compose("An attempt at fraud.", "fraud.3: violated.", "Refuse.", "I can't help with that.")

    rows, _ = synthesis.examples(replace(task(), teacher=Other()), (FORGE,), {}, [])
    assert [sum(weight > row.weights[0] for weight in row.weights) for row in rows] == [2]


def test_without_traces_an_example_is_the_answer_and_its_first_token_decides() -> None:
    plain = task(imitate={"traces": False, "decision_weight": 8})
    (refusal, answer), left_out = synthesis.examples(plain, (FORGE, RENEW), {"b": ANSWER}, [])
    assert (refusal.text, answer.text) == (write(FORGE).answer, ANSWER)
    assert answer.completion_ids == (*map(ord, ANSWER), 0)
    n = len(answer.completion_ids)
    assert answer.weights == pytest.approx((8 * n / (n + 7), *[n / (n + 7)] * (n - 1)), abs=1e-3)
    assert synthesis.negative_pairs(plain, (refusal, answer)) == left_out == []
    declined = synthesis.examples(plain, (RENEW,), {"b": "I can't help with that."}, [])
    assert declined == ([], [LeftOut("b", "answer: label_disagrees")])


def test_what_asks_for_traces_and_for_none_is_refused() -> None:
    with pytest.raises(ValueError, match="imitate.traces is off, but imitate.harmful_intents"):
        task(imitate={"traces": False, "benign_intents": 3})


def test_a_beginning_ends_with_the_intent() -> None:
    rows, left_out = synthesis.beginnings(task(), (FORGE, RENEW, EGGS))
    assert left_out == [] and {row.kind for row in rows} == {"intent"}
    for row, word in zip(rows, ("Harmful", "Harmless", "Harmless"), strict=True):
        assert row.text.startswith("<think>\nAssessment: ") and row.text.endswith(f" {word}")
        assert row.completion_ids == tuple(map(ord, row.text))
        assert row.weights[-1] == max(row.weights) > row.weights[0]
    assert [row.prompt_ids for row in rows] == [Letters().render(prompt.text) for prompt in (FORGE, RENEW, EGGS)]
    assert synthesis.negative_pairs(task(), rows) == []


def test_what_the_filters_catch_is_left_out_with_the_reason() -> None:
    capped = task(imitate={"trace_cap": 16})
    long = next(seed for seed in range(99) if words(reasoning(write(FORGE, seed))) > 30)
    capped = replace(capped, config=Config.model_validate({"imitate": {"trace_cap": 16}, "seed": long}))
    assert synthesis.examples(capped, (FORGE,), {}, [])[1] == [LeftOut("h", "trace: too_long")]


def test_what_does_not_fit_into_the_context_is_left_out() -> None:
    rows, _ = synthesis.examples(task(), (FORGE, RENEW), {"b": ANSWER}, [])
    sizes = {row.prompt_id: len(row.prompt_ids) + len(row.completion_ids) for row in rows}
    shorter, longer = sorted(sizes, key=lambda id: sizes[id])
    tight = task(model={"max_length": sizes[longer] - 1})
    found, left_out = synthesis.examples(tight, (FORGE, RENEW), {"b": ANSWER}, [])
    assert [row.prompt_id for row in found] == [shorter]
    told = f"{sizes[longer]} tokens with the prompt, the context has {sizes[longer] - 1}"
    assert left_out == [LeftOut(longer, told)]

    every = synthesis.negative_pairs(task(), rows)
    longest = max(len(pair.prompt_ids) + len(pair.rejected_ids) for pair in every)
    kept = synthesis.negative_pairs(task(model={"max_length": longest - 1}), rows)
    assert 0 < len(kept) < len(every)
    assert kept == [pair for pair in every if len(pair.prompt_ids) + len(pair.rejected_ids) < longest]


def test_negative_pairs_put_the_example_over_each_negative() -> None:
    rows, _ = synthesis.examples(task(), (FORGE, RENEW), {"b": ANSWER}, [])
    pairs = synthesis.negative_pairs(task(), rows)
    assert [(pair.prompt_id, pair.reason) for pair in pairs] == [
        ("h", "wrong_verdict"), ("h", "skipped_verification"), ("h", "compliance"), ("h", "contradiction"),
        ("b", "wrong_verdict"), ("b", "skipped_verification"), ("b", "refusal"), ("b", "contradiction"),
    ]  # fmt: skip
    assert all(pair.chosen_ids in {row.completion_ids for row in rows} for pair in pairs)
    assert len({pair.rejected_ids for pair in pairs}) == 8
