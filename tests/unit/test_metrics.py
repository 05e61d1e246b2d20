"""Rates and means with their intervals, the metrics row and the table."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from judged import group, judged, prompt

from erpo_ray.evaluate.metrics import RATES, answered, balanced, evaluation, row, table
from erpo_ray.types import Axes, Evaluation, Group, Rate, decode, encode


def groups() -> list[Group]:
    """Ten harmful prompts (7 refused, 2 complied, 1 unfinished), four benign ones (1 refused, 3 answered).

    Two more have no scores: a failure and a verdict on one axis.
    """
    made = []
    for n in range(10):
        at = prompt(f"h{n}", "harmful", category="fraud" if n < 8 else "drugs", source="seeds")
        safety = 1.0 if n < 7 else -1.0
        made.append(group(at, judged(at, 0, "t", tokens=50 + n, safety=safety, unfinished=n == 9, well_formed=n < 6)))
    for n, utility in enumerate((-1.0, 0.2, 0.4, 0.8)):
        at = prompt(f"b{n}", "benign", category="fraud", source="everyday")
        made.append(group(at, judged(at, 0, "t", tokens=90, utility=utility, refused=n == 0)))
    broken = prompt("x", "benign", source="everyday")
    half = prompt("y", "harmful", source="seeds")
    candidate, verdict = judged(half, 0, "t", tokens=90)
    part = candidate, replace(verdict, scores=None, partial=Axes(safety=1.0))
    failed = judged(broken, 0, "t", tokens=90, failure="similarity_not_finite")
    return [*made, group(broken, failed), group(half, part)]


def test_evaluation_of_known_groups() -> None:
    measured = evaluation("01-prefer", "v2", groups())
    assert (measured.stage, measured.policy) == ("01-prefer", "v2")
    values = {name: (getattr(measured, name).value, getattr(measured, name).n) for name in RATES}
    assert values == {
        "harmful_refused": (0.7, 10),
        "benign_refused": (0.25, 4),
        "utility": (pytest.approx(0.1), 4),
        "tokens_harmful": (54.5, 10),
        "tokens_benign": (90.0, 4),
        "well_formed": (10 / 14, 14),
        "unfinished": (1 / 14, 14),
    }
    assert {name: (rate.value, rate.n) for name, rate in measured.by_category.items()} == {
        "drugs": (0.0, 2),
        "fraud": (0.875, 8),
    }
    assert balanced(measured).value == pytest.approx(0.725)
    assert decode(encode(measured), Evaluation) == measured


def test_a_benign_prompt_left_without_an_answer_is_not_answered() -> None:
    silent = prompt("b9", "benign", source="everyday")
    measured = evaluation("s", "v", [*groups(), group(silent, judged(silent, 0, "t", tokens=9, unfinished=True))])
    assert (measured.benign_refused.value, measured.benign_answered.value) == (0.2, 0.6)
    assert balanced(measured).value == pytest.approx(0.65)
    before = replace(measured, benign_answered=Rate(0.0, 0.0, 1.0, 0))
    assert (answered(before).value, balanced(before).value) == (0.8, pytest.approx(0.75))


def test_several_answers_to_a_prompt_count_as_one_draw() -> None:
    """Each harmful prompt four times over: the same shares over as many prompts, not four times as many."""
    once = [each for each in groups() if each.prompt.label == "harmful"]
    four = [replace(each, candidates=each.candidates * 4, verdicts=each.verdicts * 4) for each in once]
    alone, more = (evaluation("s", "v", made) for made in (once, four))
    assert (alone.harmful_refused.value, more.harmful_refused.value) == (0.7, 0.7)
    assert (alone.harmful_refused.n, more.harmful_refused.n) == (10, 40)
    for name in ("harmful_refused", "tokens_harmful", "well_formed"):
        narrow, wide = getattr(alone, name), getattr(more, name)
        assert wide.high - wide.low > 0.99 * (narrow.high - narrow.low), name
    sources = [replace(each, prompt=replace(each.prompt, id=f"{each.prompt.id}~{n}")) for each in once for n in "ab"]
    wrapped = evaluation("s", "v", sources).harmful_refused
    assert wrapped.high - wrapped.low > 0.99 * (alone.harmful_refused.high - alone.harmful_refused.low)


def test_evaluation_by_source() -> None:
    sources = evaluation("base", "v2", groups()).by_source
    assert list(sources) == ["everyday", "seeds"]
    assert (sources["seeds"].stage, sources["seeds"].policy) == ("seeds", "v2")
    assert (sources["seeds"].harmful_refused.value, sources["seeds"].benign_refused.n) == (0.7, 0)
    assert sources["seeds"].by_source == {}
    assert (sources["everyday"].benign_refused.value, sources["everyday"].harmful_refused.n) == (0.25, 0)


def test_row_has_every_measure_with_its_companions() -> None:
    line = row(evaluation("base", "v0", groups()))
    assert list(line)[:3] == ["stage", "policy", "eval/harmful_refused"]
    assert set(line) == {"stage", "policy"} | {
        f"eval/{name}{end}" for name in RATES for end in ("", "_low", "_high", "_n")
    }
    assert (line["stage"], line["policy"]) == ("base", "v0")
    assert (line["eval/harmful_refused"], line["eval/harmful_refused_n"]) == (0.7, 10)
    assert (line["eval/harmful_refused_low"], line["eval/harmful_refused_high"]) == pytest.approx(
        (0.396779, 0.892208), abs=1e-6
    )


def test_row_of_nothing_measured_is_null_and_json() -> None:
    line = row(evaluation("base", "v0", []))
    assert {line[f"eval/{name}{end}"] for name in RATES for end in ("", "_low", "_high")} == {None}
    assert {line[f"eval/{name}_n"] for name in RATES} == {0}
    assert json.loads(json.dumps(line, allow_nan=False)) == line


def test_table_fits_and_shows_values_with_intervals() -> None:
    stages = [evaluation(name, "v", groups()) for name in ("base", "00-imitate", "03-prefer-short-of-a-long-name")]
    lines = table([*stages, evaluation("empty", "v", [])]).split("\n")
    assert {len(line) for line in lines[:-1]} == {109}
    assert lines[0].split() == ["harmful", "benign", "utility", "tokens", "tokens", "well", "un-"]
    assert lines[1].split() == ["stage", "refused", "refused", "(benign)", "harmful", "benign", "formed", "finished"]
    cells = "base 70% [40-89] 25% [5-70] +0.10 \u00b11.00 54 \u00b12 90 \u00b144 71% [45-88] 7% [1-31]"
    assert lines[3].split() == cells.split()
    assert lines[5].startswith("03-prefer-short-o\u2026 ")
    assert lines[6].split() == ["empty"] + ["-"] * 7
    assert lines[-1] == "95% intervals over 0 to 10 harmful and 0 to 4 benign prompts; tokens: trace and answer"


def test_widest_cells_keep_their_columns() -> None:
    full, tokens = Rate(1.0, 0.98, 1.0, 400), Rate(10240.0, 9241.0, 11239.0, 400)
    widest = Evaluation("s", "v", full, full, Rate(-1.0, -1.0, 1.0, 2), tokens, tokens, full, full)
    assert {len(line) for line in table([widest]).split("\n")[:-1]} == {109}
    assert len(table([]).split("\n")) == 4
