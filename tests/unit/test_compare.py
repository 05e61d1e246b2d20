"""Comparing evaluations: pairing by prompt, changes, flips, and the pages that show them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Collection
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from erpo_ray.errors import UsageError
from erpo_ray.evaluate import render
from erpo_ray.evaluate.compare import Key, Pairing, Side, Texts, compare
from erpo_ray.evaluate.measures import Observation
from erpo_ray.types import decode

HOSTILE = "<script>alert(1)</script><img src=x onerror='alert(2)'>\u202e```\n# heading\x1b[2J"


def side(name: str, suite: str = "harmful", policy: str = "v", **values: dict[str, float]) -> Side:
    """A side with one prompt for each keyword."""
    rows = {(suite, id): Observation(id, "harmful", "fraud", "seeds", found) for id, found in values.items()}
    return Side(name, policy, {"seed": "0", "prefer.beta": "0.1"}, rows)


def said(words: str = "says") -> Texts:
    def texts(keys: Collection[Key]) -> dict[Key, tuple[str, str]]:
        return {key: (f"prompt {key[1]}", f"{words} {key[1]}") for key in keys}

    return texts


def outcomes(*right: int) -> dict[str, dict[str, float]]:
    return {f"p{i}": {"right": float(value), "tokens": 10.0 + i} for i, value in enumerate(right)}


def compared(before: Side, after: Side) -> Pairing:
    (pairing,) = compare([(before, said("old")), (after, said("new"))])
    return pairing


def test_a_change_is_paired_by_prompt_and_tested_exactly() -> None:
    before = side("A", **outcomes(0, 0, 0, 0, 0, 0, 1, 1))
    after = side("B", **outcomes(1, 1, 1, 1, 1, 1, 1, 0))
    (block,) = compared(before, after).blocks
    right = block.changes[0]
    assert (right.measure, right.before, right.after, right.test) == ("right", 0.25, 0.875, "mcnemar")
    assert (right.difference.value, right.difference.n) == (0.625, 8)
    assert right.difference.low < 0.625 < right.difference.high
    assert right.p == pytest.approx(2 * (1 + 7) / 2**7)
    assert right.p_adjusted == pytest.approx(2 * right.p)  # two measures, the other with p 1
    tokens = block.changes[1]
    assert (tokens.test, tokens.p, tokens.difference.value) == ("permutation", 1.0, 0.0)


def test_flips_go_both_ways_with_their_texts_the_worse_first() -> None:
    (block,) = compared(side("A", **outcomes(0, 1, 1, 0)), side("B", **outcomes(1, 0, 1, 0))).blocks
    assert [(flip.prompt_id, flip.better, flip.prompt, flip.before, flip.after) for flip in block.flips] == [
        ("p1", False, "prompt p1", "old p1", "new p1"),
        ("p0", True, "prompt p0", "old p0", "new p0"),
    ]


def test_a_worked_answer_flips_by_its_result() -> None:
    before = side("A", a={"right": 1.0, "exact_match": 1.0}, b={"right": 0.0, "exact_match": 1.0})
    after = side("B", a={"right": 1.0, "exact_match": 0.0}, b={"right": 1.0, "exact_match": 1.0})
    (block,) = compared(before, after).blocks
    assert [(flip.prompt_id, flip.better) for flip in block.flips] == [("a", False)]


def test_what_one_side_lacks_is_counted_and_takes_no_part() -> None:
    before = side("A", **outcomes(1, 0), gone={"right": 1.0})
    after = side("B", **outcomes(1, 1), p9={"right": 0.0}, p8={})
    (block,) = compared(before, after).blocks
    assert (block.prompts, block.only_before, block.only_after) == (2, 1, 2)
    assert (block.changes[0].before, block.changes[0].after) == (0.5, 1.0)


def test_suites_are_kept_apart_and_corrected_together() -> None:
    rows = outcomes(*[0] * 6), outcomes(*[1] * 6)
    before = Side("A", "v", {}, {**side("", "one", **rows[0]).rows, **side("", "two", **rows[0]).rows})
    after = Side("B", "v", {}, {**side("", "one", **rows[1]).rows, **side("", "two", **rows[0]).rows})
    found = compared(before, after).blocks
    assert [block.suite for block in found] == ["one", "two"]
    assert [len(block.flips) for block in found] == [6, 0]
    assert found[0].changes[0].p_adjusted == pytest.approx(4 * found[0].changes[0].p)


def test_several_sides_are_each_compared_with_the_first() -> None:
    sides = [(side(name, **outcomes(*right)), said()) for name, right in (("A", (0, 0)), ("B", (1, 0)), ("C", (1, 1)))]
    found = compare(sides)
    assert [(pairing.before, pairing.after, pairing.blocks[0].changes[0].after) for pairing in found] == [
        ("A", "B", 0.5),
        ("A", "C", 1.0),
    ]


def test_a_run_and_an_evaluation_go_by_prompt_ids_alone() -> None:
    (block,) = compared(side("A", "", **outcomes(0, 1)), side("B", "harmful", **outcomes(1, 1))).blocks
    assert (block.suite, block.prompts, block.flips[0].after) == ("", 2, "new p0")


def test_a_run_cannot_be_paired_with_suites_that_share_ids() -> None:
    both = Side("B", "v", {}, {**side("", "one", **outcomes(1)).rows, **side("", "two", **outcomes(1)).rows})
    with pytest.raises(UsageError, match="B: the prompt p0 is in the suites one and two"):
        compared(side("A", "", **outcomes(1)), both)


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(UsageError, match="A and B have no prompt in common"):
        compared(side("A", "one", **outcomes(1)), side("B", "two", **outcomes(1)))


def test_settings_that_differ_are_told() -> None:
    after = Side("B", "v", {"seed": "0", "prefer.beta": "0.2", "extra": "1"}, side("", **outcomes(1)).rows)
    assert compared(side("A", **outcomes(1)), after).settings == ("extra: (absent) -> 1", "prefer.beta: 0.1 -> 0.2")


@trials(max_examples=20)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_swapping_the_sides_mirrors_everything(pairs: list[tuple[bool, bool]]) -> None:
    a, b = side("A", **outcomes(*(x for x, _ in pairs))), side("B", **outcomes(*(y for _, y in pairs)))
    (there,), (back,) = compared(a, b).blocks, compared(b, a).blocks
    for one, other in zip(there.changes, back.changes, strict=True):
        assert (one.before, one.after, one.p) == (other.after, other.before, other.p)
        assert one.difference.value == -other.difference.value
    assert {(f.prompt_id, f.better) for f in there.flips} == {(f.prompt_id, not f.better) for f in back.flips}


# Pages


@pytest.fixture
def hostile() -> list[Pairing]:
    rows = {("harmful", HOSTILE): Observation(HOSTILE, "harmful", "fraud", "seeds", {"right": 1.0})}
    after = {("harmful", HOSTILE): Observation(HOSTILE, "harmful", "fraud", "seeds", {"right": 0.0})}
    texts: Texts = lambda keys: {key: (HOSTILE, HOSTILE) for key in keys}  # noqa: E731
    sides = [Side(HOSTILE, HOSTILE, {"a": HOSTILE}, rows), Side("B", "v", {"a": "1"}, after)]
    return compare([(each, texts) for each in sides])


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.words: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_html_shows_model_text_as_text(hostile: list[Pairing]) -> None:
    source = render.html(hostile)
    page = Page(source)
    assert not {"script", "img", "iframe", "object", "link", "a"} & set(page.tags)
    assert page.attributes == {"lang", "charset", "name", "content", "http-equiv", "class"}
    assert "".join(page.words).count("<script>alert(1)</script>") == 8
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e]", source) and "http://" not in source


def test_html_allows_its_own_style_and_nothing_else(hostile: list[Pairing]) -> None:
    source = render.html(hostile)
    style = source.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in source


def test_markdown_fences_are_longer_than_those_inside(hostile: list[Pairing]) -> None:
    source = render.markdown(hostile)
    lines = source.splitlines()
    assert lines.count("````text") == lines.count("````") == 3
    outside, inside = [], False
    for line in lines:
        inside = not inside if line.startswith("````") else inside
        outside += [] if inside else [line]
    assert "<script>" not in "".join(outside).replace("\\<", "") and "# heading" not in outside


def test_text_cannot_move_the_cursor(hostile: list[Pairing]) -> None:
    assert "\x1b" not in render.text(hostile) and "\u202e" not in render.text(hostile)


def test_json_reads_back(hostile: list[Pairing]) -> None:
    assert decode(render.json(hostile), list[Pairing]) == hostile
    assert json.loads(render.json(hostile))[0]["blocks"][0]["flips"][0]["before"] == HOSTILE


def test_the_table_says_which_changes_are_sure() -> None:
    before, after = side("A", **outcomes(*[0] * 9)), side("B", **outcomes(*[1] * 9))
    lines = render.text([compared(before, after)]).splitlines()
    assert lines[2] == "harmful: 9 prompts on both sides, 9 got better, 0 got worse"
    cells = "as the label asks 0.0% 100.0% +100.0% [+40.2%, +100.0%] 9 0.004 0.008 better"
    assert lines[4].split() == cells.split()
    assert lines[5].split()[-1] == "1.000"
    assert lines[-1] == "settings: no difference"


@pytest.mark.parametrize("form", [render.html, render.markdown])
def test_long_lists_of_flips_are_cut_and_counted(form: Callable[[list[Pairing]], str]) -> None:
    many = render.SHOWN + 3
    before, after = side("A", **outcomes(*[1] * many)), side("B", **outcomes(*[0] * many))
    shown = form([compared(before, after)])
    assert "3 more worse ones are not shown" in shown
    assert shown.count("old p") == render.SHOWN


def test_the_template_travels_with_the_package() -> None:
    root = Path(__file__).parents[2]
    assert '"**/*.html"' in (root / "pyproject.toml").read_text()
    assert (root / "erpo_ray/evaluate/compare.html").exists()
