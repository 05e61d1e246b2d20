"""Trace and answer apart while a completion is being written, and where they lie among its tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erpo_ray import traces
from erpo_ray.engines.splitting import Splitter, answer_ids, closes, reasoning_tokens

PIECES = st.sampled_from(["<think>", "</think>", "<", "<think", "</", "/think>", " ", "\n", "a", "b c", "\u00e9"])
TEXTS = st.lists(PIECES, max_size=12).map("".join)


def streamed(pieces: Sequence[str]) -> tuple[str, str]:
    """Both parts, joined from what each piece added and what was left at the end."""
    splitter = Splitter()
    parts = [*map(splitter.feed, pieces), splitter.finish()]
    return "".join(part[0] for part in parts), "".join(part[1] for part in parts)


def split(text: str) -> tuple[str, str]:
    reasoning, answer = traces.split(text)
    return reasoning or "", (answer or "").strip()


def cut(text: str, at: Sequence[int]) -> list[str]:
    ends = sorted({min(end, len(text)) for end in at} | {0, len(text)})
    return [text[start:end] for start, end in zip(ends, ends[1:], strict=False)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<think>\nwhy\n</think>\nanswer\n", ("why", "answer")),
        ("answer <b>", ("", "answer <b>")),
        ("<think>\nopen </thi", ("open </thi", "")),
        ("<think>a</think>", ("a", "")),
        ("hi <think> x </think> y", ("x", "hi\ny")),
        ("<think>a<think>b</think>c<think>d</think>", ("a<think>b", "c<think>d</think>")),
        ("", ("", "")),
    ],
)
def test_character_by_character_gives_the_parts_of_the_whole(text: str, parts: tuple[str, str]) -> None:
    assert streamed(text) == streamed([text]) == split(text) == parts


@given(TEXTS, st.lists(st.integers(0, 60), max_size=20))
def test_a_stream_gives_the_parts_of_the_whole_however_it_is_cut(text: str, at: list[int]) -> None:
    whole = f"<think>{text}</think>{text}"
    assert streamed(cut(whole, at)) == split(whole)


@given(TEXTS, st.lists(st.integers(0, 60), max_size=20))
def test_what_a_stream_says_depends_on_the_text_alone(text: str, at: list[int]) -> None:
    assert streamed(cut(text, at)) == streamed([text])


@pytest.mark.parametrize(
    ("text", "parts"),
    [("words <think> open", ("open", "words")), ("trace </think> answer", ("", "trace\nanswer"))],
)
def test_what_was_said_before_a_tag_stays_said(text: str, parts: tuple[str, str]) -> None:
    assert streamed(text) == parts != split(text)


def test_text_comes_as_soon_as_no_tag_can_take_it_back() -> None:
    splitter = Splitter()
    said = [splitter.feed(piece) for piece in ("<think>", "why", " ", "not", "</", "b", "</think>\n", "yes", " <")]
    assert said == [
        ("", ""),
        ("why", ""),
        ("", ""),
        (" not", ""),
        ("", ""),
        ("</b", ""),
        ("", ""),
        ("", "yes"),
        ("", " <"),
    ]


# Tokens: three characters each, as a vocabulary might cut the tags


def tokens(text: str) -> tuple[list[int], Callable[[Sequence[int]], str]]:
    """Ids of a text, and how they are decoded."""
    return list(range((len(text) + 2) // 3)), lambda ids: "".join(text[3 * i : 3 * i + 3] for i in ids)


def test_the_tokens_of_the_trace_are_counted_without_its_tags() -> None:
    # <th ink >ab cde f</ thi nk> gh: of these `cde` alone lies wholly between the tags.
    assert reasoning_tokens(*tokens("<think>abcdef</think>gh")) == 1


@pytest.mark.parametrize(("text", "count"), [("<think>abcdefgh", 2), ("abcdef", 0), ("abcdef</think>", 2), ("", 0)])
def test_open_traces_and_completions_without_one_are_counted_too(text: str, count: int) -> None:
    assert reasoning_tokens(*tokens(text)) == count


def test_the_answer_begins_behind_the_token_that_closes_the_trace() -> None:
    ids, decode = tokens("<think>abcdef</think>ghijk")
    assert decode(answer_ids(ids, decode)) == "ghijk"
    assert answer_ids(ids[:4], decode) == []


OPEN = st.lists(st.sampled_from(["<think>", "</", "think", "<", " ", "a"]), max_size=8).map("".join)


@given(OPEN, OPEN, st.integers(1, 4))
def test_the_step_that_closes_the_trace_is_told_once(inside: str, behind: str, new: int) -> None:
    text = f"<think>{inside}</think>{behind}"
    ids = list(range(len(text)))
    steps = [
        closes(ids[: at + new], len(ids[at : at + new]), lambda some: "".join(text[i] for i in some))
        for at in range(0, len(ids), new)
    ]
    assert steps.index(True) == (text.index("</think>") + len("</think>") - 1) // new
    assert sum(steps) == 1
