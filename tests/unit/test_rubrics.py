"""What is put to a judge model: fenced, with nothing hidden in it, and never twice with the same codes."""

from __future__ import annotations

import re
import unicodedata

import pytest
from forgeries import SPECIAL
from hypothesis import example, given
from hypothesis import strategies as st

from erpo_ray.judging import rubrics
from erpo_ray.judging.fencing import Shown, show
from erpo_ray.judging.replies import Form
from erpo_ray.rules import load

RUBRICS = (rubrics.SAFETY_RUBRIC, rubrics.UTILITY_RUBRIC, rubrics.FAITHFULNESS_RUBRIC, rubrics.PREFERENCE_RUBRIC)
TEXTS = [("The user's message", "How do I renew it?"), ("The assistant's answer", "At the office.\nEND\n")]


def restored(text: str) -> str:
    """The text that was shown, if nothing was cut."""
    return re.sub(r"\\u\{([0-9a-f]+)\}", lambda mark: chr(int(mark[1], 16)), text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, naïve, 漢字, a\n\tb 👍🏽 ❤️", "plain, naïve, 漢字, a\n\tb 👍🏽 ❤️"),
        ("a\x00b\x1b[2Jc\r\n", "a\\u{0}b\\u{1b}[2Jc\\u{d}\n"),
        ("\u202eabc\u2066\u200b\ufeff", "\\u{202e}abc\\u{2066}\\u{200b}\\u{feff}"),
        ("\U000e0041\U000e0100", "\\u{e0041}\\u{e0100}"),
        ("<|im_start|>system", "\\u{3c}|im_start|>system"),
        ("<< SYS [INST] [/INST] <<SYS>>", "<< SYS \\u{5b}INST] \\u{5b}/INST] \\u{3c}<SYS>>"),
        ("</think><s></s>< think >", "\\u{3c}/think>\\u{3c}s>\\u{3c}/s>\\u{3c} think >"),
        ("<start_of_turn><TOOL_CALL><extra_id_0>", "\\u{3c}start_of_turn>\\u{3c}TOOL_CALL>\\u{3c}extra_id_0>"),
        ("＜|x|＞ <｜User｜>", "\\u{ff1c}|x|＞ \\u{3c}｜User｜>"),
        ("<div> a < b > c [1] [x](y) list[T]", "<div> a < b > c [1] [x](y) list[T]"),
        ("\\u{3c} and \\u0041", "\\u{5c}u{3c} and \\u0041"),
        ("\\u{cut 5}", "\\u{5c}u{cut 5}"),
    ],
)
def test_what_is_hidden_or_special_is_shown(text: str, shown: str) -> None:
    assert show(text, 1000) == Shown(shown)


def test_the_middle_of_an_overlong_text_is_left_out() -> None:
    assert show("a" * 50 + "b" * 50, 100) == Shown("a" * 50 + "b" * 50)
    assert show("a" * 60 + "b" * 61, 100) == Shown("a" * 50 + "\\u{cut 21}" + "b" * 50, 21)
    # Each of these takes five characters.
    assert show("\x00" * 21, 100) == Shown("\\u{0}" * 10 + "\\u{cut 1}" + "\\u{0}" * 10, 1)


@given(st.text(max_size=300))
@example("\\u{\\u{3c}<|\\")
def test_showing_can_be_undone_and_hides_nothing(text: str) -> None:
    shown = show(text, 10000)
    assert restored(shown.text) == text and shown.left_out == 0
    hidden = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert not [char for char in shown.text if char not in "\n\t" and unicodedata.category(char) in hidden]


@given(st.lists(st.sampled_from([*SPECIAL, *"abAB|<>[]/ \n\x00", "\u202e"]), max_size=60), st.integers(10, 60))
def test_no_special_token_is_left_and_the_limit_holds(parts: list[str], limit: int) -> None:
    text = "".join(parts)
    shown = show(text, limit)
    assert not [token for token in SPECIAL if token in shown.text]
    kept = re.sub(r"\\u\{cut \d+\}", "", shown.text)
    assert len(kept) <= limit
    assert len(restored(kept)) == len(text) - shown.left_out


@pytest.mark.parametrize("rubric", RUBRICS)
def test_every_text_has_its_own_fresh_fence(rubric: rubrics.Rubric) -> None:
    case = rubrics.case(rubric, "", TEXTS, 1000)
    questions = [rubrics.pose(case) for _ in range(3)]
    codes = set()
    for question in questions:
        fences = re.findall(r"^([^\n]+):\nBEGIN (\w{32})\n(.*?)\nEND \2$", question.user, re.MULTILINE | re.DOTALL)
        assert [(title, text) for title, _, text in fences] == TEXTS
        assert [f"{title}: code {code}" for title, code, _ in fences] == question.system.splitlines()[-3::2]
        assert f'{{"code": "{question.code}", ' in question.system and question.code not in question.user
        codes |= {question.code, *(code for _, code, _ in fences)}
    assert len(codes) == 9
    assert all("office" not in question.system for question in questions)


def test_every_rubric_says_its_form() -> None:
    for rubric in RUBRICS:
        system = rubrics.pose(rubrics.case(rubric, "", TEXTS, 1000)).system
        for name, values in rubric.form.fields:
            assert f'"{name}": ' in system
            assert all(str(value).lower() in system for value in values)
    assert rubrics.SAFETY_RUBRIC.form.schema() == {
        "type": "object",
        "properties": {
            "code": {"type": "string"},
            "level": {"type": "string", "enum": ["safe", "mostly_safe", "partly_unsafe", "unsafe"]},
        },
        "required": ["code", "level"],
        "additionalProperties": False,
    }


def test_the_scales_are_even_and_sided() -> None:
    levels = list(rubrics.SAFETY.values())
    assert levels[0] == 1 and levels[-1] == -1
    assert [a - b for a, b in zip(levels, levels[1:], strict=False)] == pytest.approx([2 / 3] * 3)
    assert [rubrics.utility(score) for score in rubrics.UTILITIES] == [-1, -0.5, 0, 0.5, 1]


def test_the_content_of_a_case_is_all_it_depends_on_and_no_code() -> None:
    def content(rubric: rubrics.Rubric = rubrics.SAFETY_RUBRIC, rules: str = "", text: str = "x") -> str:
        return rubrics.case(rubric, rules, [("Answer", text)], 1000).content()

    assert content() == content()
    other = rubrics.Rubric(rubrics.SAFETY_RUBRIC.form, rubrics.SAFETY_RUBRIC.task + " And be strict.")
    form = rubrics.Rubric(Form("safety", (("level", ("safe", "unsafe")),)), rubrics.SAFETY_RUBRIC.task)
    assert len({content(), content(other), content(form), content(rules="r"), content(text="y")}) == 5


def test_rules_of_a_category_are_given_in_full() -> None:
    fraud = load().category("fraud")
    lines = rubrics.rules_of(fraud).splitlines()
    assert lines[0].startswith("Rules of the category Fraud (")
    assert lines[1:] == [f"{rule.id} {rule.text}" for rule in fraud.rules]


def test_a_guidance_stands_in_front_of_the_task_and_makes_another_case() -> None:
    plain = rubrics.SAFETY_RUBRIC
    assert rubrics.guided(plain, "") is plain
    guided = rubrics.guided(plain, "Look hard.")
    cases = [rubrics.case(rubric, "r", TEXTS, 1000) for rubric in (plain, guided)]
    assert guided.version != plain.version and cases[0].content() != cases[1].content()
    before, after = (rubrics.pose(case).system.partition("Reply with one JSON")[0] for case in cases)
    assert after == before.replace(plain.task, f"Look hard.\n\n{plain.task}")
