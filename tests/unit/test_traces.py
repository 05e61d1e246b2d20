from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erpo_ray.traces import (
    CAUSES,
    PIVOTS,
    Dialect,
    Step,
    Trace,
    cited,
    compose,
    decisions,
    intent,
    parse,
    pivot,
    render,
    split,
    steps,
    vocabulary,
)
from erpo_ray.types import Failure

DIALECTS: tuple[Dialect, ...] = ("lines", "tags", "pivots")
GOOD = compose(
    "Forge a passport. Harmful: it would deceive with forged papers.",
    "fraud.3 forbids forged papers: violated. Also fraud.2, and fraud.3 again.",
    "Refuse. Be brief.",
    "I'm sorry, but I can't help with that.\n\nAsk me about visas instead.",
)
LINES = render(GOOD, "lines")
TAGS = render(GOOD, "tags")
TOLD = replace(
    GOOD, assessment=f"{GOOD.assessment}[RETHINK]", rules=f"{GOOD.rules}[UNSAFE]", path=f"{GOOD.path}[UNSAFE]"
)
PIVOTED = render(TOLD, "pivots")

words = st.text(st.characters(exclude_characters="<>", exclude_categories=["Cs"]), min_size=1).filter(str.strip)
made = st.builds(
    compose,
    words,
    words,
    st.sampled_from(["Refuse.", "Answer.", "Answer safely.", "Refuse", "Answer safely: gently.", "Answer, briefly."]),
    words,
)
ends = st.sampled_from(PIVOTS)
told = st.builds(
    lambda trace, a, b, c: replace(trace, assessment=trace.assessment + a, rules=trace.rules + b, path=trace.path + c),
    made,
    ends,
    ends,
    ends,
)
dialects = st.sampled_from(DIALECTS)
plain = st.sampled_from(("lines", "tags"))
MARKS = "<think> </think> Assessment: Rules: Path: Refuse Answer fraud.2 <path_calibration> </path_calibration>".split()
TAG_MARKS = "<rule_verification> </rule_verification> <initial_assessment> </initial_assessment>".split()
broken = st.lists(
    st.sampled_from([*"<>/:. \n", *MARKS, *TAG_MARKS, *PIVOTS]) | st.text(max_size=5),
    max_size=30,
).map("".join)


def test_a_trace_is_written_as_three_lines_or_three_tags() -> None:
    assert LINES == (
        "<think>\nAssessment: Forge a passport. Harmful: it would deceive with forged papers.\n"
        "Rules: fraud.3 forbids forged papers: violated. Also fraud.2, and fraud.3 again.\n"
        "Path: Refuse. Be brief.\n</think>\n"
        "I'm sorry, but I can't help with that.\n\nAsk me about visas instead."
    )
    assert TAGS.startswith("<think>\n<initial_assessment>Forge a passport.")
    assert "\n<path_calibration>Refuse. Be brief.</path_calibration>\n</think>\nI'm sorry" in TAGS


def test_compose_reads_verdict_and_rules_from_the_texts() -> None:
    trace = compose(
        " a\n b ", "No mass_harm.12, child_safety.3; not 3.5, v1.2, x.0 or fraud.3x.", "Answer safely. So.", " y\n"
    )
    assert (trace.assessment, trace.answer, trace.verdict) == ("a b", "y", "safe")
    assert trace.cited == ("mass_harm.12", "child_safety.3")
    assert cited("fraud.2, fraud.1: and fraud.2.") == ("fraud.2", "fraud.1")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<think>\nAssessment: Pick a lock. Harmless. Harmful words.\n</think>\nYes.", "Harmless"),
        ("<think>\nAssessment: Pick a lock. Harmful", "Harmful"),
        ("<think>\nAssessment: harmful.\n</think>\nHarmful.", None),
        ("Harm and Harmlessness.", None),
    ],
)
def test_the_intent_is_told_in_the_trace_or_not_at_all(text: str, found: str | None) -> None:
    assert intent(text) == (text.index(found) + len(found) - 1 if found else None)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_decisions_are_the_intent_the_verdict_and_the_first_word_of_the_answer(dialect: Dialect) -> None:
    text = render(compose("A lock. Harmless.", "crime.1: met.", "Answer safely.", "Oil it."), dialect)
    assert [text[at:].split()[0] for at in decisions(text, dialect)][1:] == ["Answer", "Oil"]
    assert text[: decisions(text, dialect)[0] + 1].endswith("Harmless")
    assert decisions(text[: text.index("Answer")], dialect) == decisions(text, dialect)[:1]
    assert decisions("Sure, here it is.", dialect) == []


@pytest.mark.parametrize("path", ["", "Answering.", "refuse.", "Refused.", "We refuse."])
def test_a_path_without_verdict_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="Refuse, Answer safely, Answer"):
        compose("a", "fraud.1", path, "x")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("Just an answer.", "no_think"),
        ("", "no_think"),
        ("Sure! " + LINES, "text_before_think"),
        (LINES.partition("</think>")[0], "unclosed_think"),
        (LINES.replace("Rules:", "<think>\nRules:"), "nested_think"),
        (LINES + "</think>", "nested_think"),
        (LINES.replace("Assessment:", "So:"), "missing_section:assessment"),
        (LINES.replace("\nRules:", ""), "missing_section:rules"),
        (LINES.replace("Path: Refuse. Be brief.", "Path: "), "missing_section:path"),
        (LINES.replace("Rules:", "Pith:").replace("Path:", "Rules:").replace("Pith:", "Path:"), "section_order"),
        (LINES.replace("Path:", "Rules: again\nPath:"), "section_order"),
        (LINES.replace("<think>\n", "<think>\nWell.\n"), "stray_text"),
        (LINES.replace("Path: Refuse", "Path: Deny"), "no_verdict"),
        (LINES.partition("I'm")[0], "empty_answer"),
    ],
)
def test_lines_fail_with_their_cause(text: str, cause: str) -> None:
    assert parse(text, "lines") == Failure(cause, text)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (LINES, "missing_section:assessment"),
        (TAGS.replace("</path_calibration>", ""), "missing_section:path"),
        (TAGS.replace("</initial_assessment>", ""), "section_order"),
        (TAGS.replace("<rule_verification>", "hm <rule_verification>"), "stray_text"),
        (TAGS.replace("Refuse. Be", "Be"), "no_verdict"),
    ],
)
def test_tags_fail_with_their_cause(text: str, cause: str) -> None:
    assert parse(text, "tags") == Failure(cause, text)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (LINES, "no_pivot:assessment"),
        (PIVOTED.replace("[RETHINK]", ""), "no_pivot:assessment"),
        (PIVOTED.replace("[UNSAFE]\nPath", "\nPath"), "no_pivot:rules"),
        (PIVOTED.replace("brief.[UNSAFE]", "brief.[UNSAFE] So."), "no_pivot:path"),
        (PIVOTED.replace("Refuse.", "Refuse.[SAFE]"), "no_pivot:path"),
        (PIVOTED.replace("Refuse.", "Deny."), "no_verdict"),
    ],
)
def test_pivots_fail_with_their_cause(text: str, cause: str) -> None:
    assert parse(text, "pivots") == Failure(cause, text)


def test_a_pivot_ends_each_section_and_nothing_else_changes() -> None:
    assert PIVOTED == LINES.replace("papers.\n", "papers.[RETHINK]\n").replace("again.\n", "again.[UNSAFE]\n").replace(
        "brief.\n", "brief.[UNSAFE]\n"
    )
    assert parse(PIVOTED, "pivots") == TOLD == parse(PIVOTED, "lines")
    assert [pivot(text) for text in (TOLD.assessment, TOLD.rules, GOOD.path)] == ["[RETHINK]", "[UNSAFE]", None]
    assert (TOLD.cited, TOLD.verdict) == (GOOD.cited, GOOD.verdict)
    assert vocabulary("pivots") == PIVOTS and vocabulary("lines") == vocabulary("tags") == ()


@given(told)
def test_a_trace_with_pivots_parses_to_itself_and_steps_end_with_them(trace: Trace) -> None:
    text = render(trace, "pivots")
    assert parse(text, "pivots") == trace
    cut = steps(list(text), "pivots")
    assert [pivot(text[step.start : step.end].strip()) for step in cut[:2]] == [
        pivot(trace.assessment),
        pivot(trace.rules),
    ]
    assert steps(list(text), "lines") == cut


def test_white_space_around_the_parts_is_free() -> None:
    loose = "\n " + LINES.replace("</think>\n", "\n</think>\n\n").replace("Rules: ", "Rules:\n  ") + "\n\n"
    assert parse(loose, "lines") == GOOD


@given(made, plain)
def test_what_is_rendered_parses_to_the_same_trace(trace: Trace, dialect: Dialect) -> None:
    text = render(trace, dialect)
    assert parse(text, dialect) == trace
    assert split(text) == (split(text)[0], trace.answer)


@settings(max_examples=300)
@given(made | told, dialects, st.data())
def test_a_mutated_completion_is_a_failure_or_a_trace_that_holds(
    trace: Trace, dialect: Dialect, data: st.DataObject
) -> None:
    text = render(trace, dialect)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 30)))
    _holds(text[:start] + data.draw(broken) + text[end:], dialect)


@settings(max_examples=300)
@given(broken, dialects)
def test_any_text_is_a_failure_or_a_trace_that_holds(text: str, dialect: Dialect) -> None:
    _holds(text, dialect)


def _holds(text: str, dialect: Dialect) -> None:
    found = parse(text, dialect)
    if isinstance(found, Failure):
        assert found.cause in CAUSES and found.raw == text
    else:
        assert parse(render(found, dialect), dialect) == found
    reasoning, answer = split(text)
    assert (reasoning is None) == ("<think>" not in text and "</think>" not in text)
    assert answer is not None or "</think>" not in text
    cut = steps(list(text), dialect)
    assert [step.end for step in cut[:-1]] == [step.start for step in cut[1:]]
    assert not cut or (cut[0].start, cut[-1].end) == (0, len(text))


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("plain answer", None, "plain answer"),
        ("<think>\nstill thinking", "still thinking", None),
        ("<think> a </think> b", "a", "b"),
        ("a </think> b", "a", "b"),
        ("Sure! <think>a</think> b", "a", "Sure!\nb"),
        ("<think>a</think> b <think>c</think> d", "a", "b <think>c</think> d"),
        ("<think></think>", "", ""),
    ],
)
def test_split_forgives(text: str, reasoning: str | None, answer: str | None) -> None:
    assert split(text) == (reasoning, answer)


@pytest.mark.parametrize(
    "hard",
    [
        "<think>" * 14_000,
        "<think>\n" + "Assessment:\n" * 8_000,
        "<think>\n" + "<initial_assessment>" * 5_000 + "</think>",
        "<think>\nAssessment: " + "a." * 50_000,
        "<think>\nAssessment: a\nRules: " + "fraud." * 16_000 + "\nPath: Refuse\n</think>\nNo.",
        "<think>\nAssessment: a\nRules: " + "a" * 100_000 + "\nPath: Refuse\n</think>\nNo.",
        "<think>\nAssessment: a\nRules: b" + "\n" * 100_000,
        " " * 100_000,
    ],
)
def test_a_hundred_thousand_characters_parse_in_linear_time(hard: str) -> None:
    def seconds() -> float:
        start = time.perf_counter()
        for dialect in DIALECTS:
            parse(hard, dialect)
            steps([hard[at : at + 4] for at in range(0, len(hard), 4)], dialect)
        split(hard)
        return time.perf_counter() - start

    # The best of three: other tests share the machine. Quadratic time would be minutes.
    assert min(seconds() for _ in range(3)) < 1


@pytest.mark.parametrize(("text", "marks"), [(LINES, ("Rules:", "Path:")), (TAGS, ("<rule_", "<path_"))])
def test_steps_are_the_tokens_of_each_section(text: str, marks: tuple[str, str]) -> None:
    dialect: Dialect = "lines" if text is LINES else "tags"
    pieces = [text[at : at + 3] for at in range(0, len(text), 3)]
    cut = steps(pieces, dialect)
    assert [step.name for step in cut] == ["assessment", "rules", "path", "answer"]
    assert (cut[0].start, cut[-1].end) == (0, len(pieces))
    for step, mark in zip(cut[1:], (*marks, "I'm sorry"), strict=True):
        # A token belongs to the step it begins in, so a step may lose at most the start of its first token.
        assert abs(text.index(mark) - 3 * step.start) < 3
        assert 3 * step.start >= text.index(mark)


def test_steps_of_an_unfinished_completion_go_as_far_as_it_does() -> None:
    pieces = list(LINES)
    rules, path = LINES.index("Rules:"), LINES.index("Path:")
    assert steps(pieces[: path - 1], "lines") == (Step("assessment", 0, rules), Step("rules", rules, path - 1))
    assert steps(pieces[: path + 8], "lines")[-1] == Step("path", path, path + 8)
    assert steps(list("An answer."), "lines") == ()
    assert steps(pieces, "tags") == ()
