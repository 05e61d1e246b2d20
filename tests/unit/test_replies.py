"""Replies of a judge model: exactly one object of its form, or a Failure."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from erpo_ray.judging.replies import CAUSES, Form, excerpt, read
from erpo_ray.types import Failure, encode

FORM = Form("mixed", (("level", ("safe", "unsafe")), ("score", (1, 2, 3)), ("follows", (True, False))))
VALUES = {"level": "safe", "score": 2, "follows": True}
CODE = "0a1b2c3d"
GOOD = json.dumps({"code": CODE} | VALUES)


@pytest.mark.parametrize(
    "reply",
    [
        GOOD,
        f"\n  {GOOD}\t\n",
        f"```json\n{GOOD}\n```",
        f"```\n{json.dumps(json.loads(GOOD), indent=2)}\n```\n",
        f"<think>Safe, so 2.</think>{GOOD}",
        f"The answer {{is}} fine.\n</think>\n\n{GOOD}",
        f" <think></think>```json\n{GOOD}\n```",
        json.dumps(VALUES | {"code": CODE}),
    ],
)
def test_one_object_is_read(reply: str) -> None:
    assert read(reply, FORM, CODE) == VALUES


def changed(**fields: object) -> str:
    return json.dumps({"code": CODE} | VALUES | fields)


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        ("", "empty_reply"),
        (" \n", "empty_reply"),
        ("<think>hm</think>\n", "empty_reply"),
        ("Score: 5", "not_json"),
        (f"Here: {GOOD}", "not_json"),
        (f"{GOOD} done", "not_json"),
        (f"{GOOD}\n{GOOD}", "not_json"),
        (f"[{GOOD}", "not_json"),
        (GOOD[:-1], "not_json"),
        (f"```json\n{GOOD}\n```\n```json\n{GOOD}\n```", "not_json"),
        (f"```json\n{GOOD}", "not_json"),
        (f"```yaml\n{GOOD}\n```", "not_json"),
        (GOOD.replace("2,", "NaN,"), "not_json"),
        (GOOD.replace("2,", "Infinity,"), "not_json"),
        (GOOD.replace("2,", "9" * 3500 + ","), "wrong_value:score"),
        (GOOD.replace('"', "'"), "not_json"),
        ("[" * 3000, "not_json"),
        (f"[{GOOD}]", "not_an_object"),
        ("5", "not_an_object"),
        ('"safe"', "not_an_object"),
        ("null", "not_an_object"),
        (GOOD + " " * 5000 + "x", "reply_too_long"),
        (GOOD.replace("}", ', "level": "unsafe"}'), "duplicate_key"),
        (GOOD.replace("}", ', "level": "safe"}'), "duplicate_key"),
        (GOOD.replace("}", ', "reason": "it is"}'), "wrong_keys"),
        (json.dumps({"code": CODE, "level": "safe", "score": 2}), "wrong_keys"),
        (json.dumps(VALUES), "wrong_code"),
        (changed(code="0a1b2c3e"), "wrong_code"),
        (changed(code=None), "wrong_code"),
        (changed(code=[CODE]), "wrong_code"),
        (changed(level="SAFE"), "wrong_value:level"),
        (changed(level=["safe"]), "wrong_value:level"),
        (changed(level={"safe": 1}), "wrong_value:level"),
        (changed(score=4), "wrong_value:score"),
        (changed(score=0), "wrong_value:score"),
        (changed(score=2.0), "wrong_value:score"),
        (changed(score="2"), "wrong_value:score"),
        (changed(score=True), "wrong_value:score"),
        (changed(score=None), "wrong_value:score"),
        (changed(follows=1), "wrong_value:follows"),
        (changed(follows="true"), "wrong_value:follows"),
        ("<think>hm " + GOOD, "unclosed_think"),
        (f"{GOOD}<think>hm</think>", "stray_think"),
        (f"<think>a</think>{GOOD}</think>{GOOD}", "stray_think"),
        (f"<think>a</think><think>b</think>{GOOD}", "stray_think"),
        (f"<think>a<think>b</think>{GOOD}", "stray_think"),
    ],
)
def test_anything_else_is_a_failure_with_its_cause(reply: str, cause: str) -> None:
    found = read(reply, FORM, CODE)
    assert isinstance(found, Failure) and found.cause == cause
    assert found.raw == excerpt(reply)
    assert cause.replace(":level", ":FIELD").replace(":score", ":FIELD").replace(":follows", ":FIELD") in CAUSES


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["safe", CODE]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["code", *VALUES, "x"]), inner),
    max_leaves=8,
)
PIECES = st.sampled_from([GOOD, "<think>", "</think>", "```json\n", "\n```", "{", "}", '"', CODE, "\\", "\ud800", " "])


@given(st.text() | JSON.map(json.dumps) | st.lists(PIECES | st.text(max_size=5), max_size=9).map("".join))
@example('{"code": "\\ud800"}')
@example("\ud800")
@example('{"a":' * 900)
def test_reading_gives_values_of_the_form_or_a_failure(reply: str) -> None:
    found = read(reply, FORM, CODE)
    if isinstance(found, Failure):
        encode(found)
    else:
        assert found.keys() == VALUES.keys()
        for name, values in FORM.fields:
            assert [type(value) for value in values if value == found[name]] == [type(found[name])]


@given(st.dictionaries(st.sampled_from(["code", *VALUES]), JSON))
def test_only_the_values_of_the_form_are_taken(fields: dict[str, object]) -> None:
    reply = {"code": CODE} | VALUES | fields
    found = read(json.dumps(reply), FORM, CODE)
    fits = (
        type(reply["score"]) is int
        and reply["score"] in (1, 2, 3)
        and reply["level"] in ("safe", "unsafe")
        and isinstance(reply["follows"], bool)
        and reply["code"] == CODE
    )
    assert (not isinstance(found, Failure)) == fits


def test_long_and_nested_replies_take_no_time() -> None:
    start = time.perf_counter()
    for reply in ("<think>" * 100_000, "{" * 100_000, "```" * 100_000, " " * 100_000 + "x", "</think>" * 100_000):
        found = read(reply, FORM, CODE)
        assert isinstance(found, Failure) and len(found.raw) < 2100
    assert time.perf_counter() - start < 5


def test_an_excerpt_keeps_both_ends_and_can_be_stored() -> None:
    assert excerpt("ab\ud800") == "ab\\ud800"
    assert excerpt("a" * 1500 + "b" * 1500) == "a" * 1000 + "\n[1000 characters left out]\n" + "b" * 1000
