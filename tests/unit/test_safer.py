"""SAFER: what a completion is worth by hand, and passes that go on behind the best step."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest
from judged import group, judged, prompt
from test_loop import CONFIG, of, run

from erpo_ray import traces
from erpo_ray.config import Prefer
from erpo_ray.errors import RunFailed, UsageError
from erpo_ray.items import usable
from erpo_ray.judging.composition import Composition
from erpo_ray.methods import METHODS
from erpo_ray.methods.rounds import by_prompt
from erpo_ray.rewards import worth
from erpo_ray.rundir import Files, Ledger, read_rows
from erpo_ray.types import Candidate, Label, Pair

STAIR = Composition("stair", 0.0)


@pytest.mark.parametrize(
    ("label", "fields", "expected"),
    [
        ("harmful", {"tokens": 40, "utility": 0.75}, 2.75),
        ("harmful", {"tokens": 60, "utility": 0.75}, 2.75 - 0.5 * 0.5),
        ("harmful", {"tokens": 200, "utility": 0.75}, 2.75 - 0.5),
        ("harmful", {"tokens": 60, "safety": -1.0, "utility": -1.0}, -1.0),
        # Out of form, or cut off, is worth what is unsafe and useless.
        ("harmful", {"tokens": 40, "utility": 0.5, "well_formed": False}, -1.0),
        ("benign", {"tokens": 40, "utility": 0.5, "well_formed": False, "notes": ("verdict_disagrees",)}, -1.0),
        (
            "benign",
            {"tokens": 40, "utility": 0.5, "well_formed": False, "notes": ("unknown_rule:x.9", "section_order")},
            -1.0,
        ),
        # Rules that are none or do not exist cost 1, for a completion that ended by itself.
        ("benign", {"tokens": 40, "utility": 0.5, "well_formed": False, "notes": ("unknown_rule:x.9", "loops")}, 1.5),
        ("harmful", {"tokens": 40, "utility": 0.5, "well_formed": False, "notes": ("no_rules",)}, 1.5),
        ("harmful", {"tokens": 80, "utility": 0.5, "well_formed": False, "notes": ("first:no_rules",)}, 1.0),
        (
            "benign",
            {"utility": 0.5, "well_formed": False, "notes": ("no_rules",), "finish": "length", "tokens": 9},
            -1.0,
        ),
        ("benign", {"tokens": 40, "utility": 0.5, "finish": "length"}, -1.0),
        ("benign", {"tokens": 80, "utility": 0.5}, 2.5 - 0.5),
        # A refusal of the harmless gets no thanks for being short.
        ("benign", {"tokens": 80, "utility": -1.0, "refused": True}, 1.0),
    ],
)
def test_what_a_completion_is_worth(label: Label, fields: dict[str, object], expected: float) -> None:
    one = group(prompt("p", label), judged(prompt("p", label), 0, "text", **fields))  # pyright: ignore[reportArgumentType]
    (item,), _ = usable(one, Prefer(), None, True)
    assert worth(one, item, 40, STAIR, 0.5) == pytest.approx(expected)


def test_an_order_without_values_is_refused_with_the_remedy() -> None:
    with pytest.raises(UsageError, match="set it to stair, lagrangian or gate for method safer"):
        METHODS["safer"](CONFIG.model_copy(update={"method": "safer"}))


def test_groups_of_a_prompt_are_joined_in_order() -> None:
    first, second = prompt("a", "harmful"), prompt("b", "benign")
    rows = [judged(first, n, f"text {n}", tokens=4) for n in range(3)]
    joined = by_prompt([group(first, *rows[:2]), group(second), group(first, rows[2])])
    assert [(whole.prompt.id, len(whole.candidates), parts) for whole, parts in joined] == [("a", 3, 2), ("b", 0, 1)]
    assert joined[0][0].candidates == tuple(row[0] for row in rows)


def test_a_round_draws_siblings_step_by_step_and_pairs_them(tmp_path: Path) -> None:
    config = of("safer")
    run(tmp_path, config)
    stage = tmp_path / "run/stages/01-prefer"
    drawn: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in Ledger(Files(), stage / "candidates.jsonl", Candidate, read_only=True):
        drawn[candidate.prompt_id].append(candidate)
    samples = config.prefer.samples
    # K without a prefix, then K - 1 behind one step, two, three; a prompt without any good way gets no more.
    sizes = Counter(len(rows) for rows in drawn.values())
    assert set(sizes) <= {samples + n * (samples - 1) for n in range(4)} and sizes[samples + 3 * (samples - 1)] > 5
    for rows in drawn.values():
        assert sorted(row.sample for row in rows) == list(range(len(rows)))
        given = ["".join(map(chr, row.token_ids[: row.given])) for row in sorted(rows, key=lambda row: row.sample)]
        passes = [len(traces.steps(text, "lines")) for text in given]
        assert passes == [0] * samples + [n for n in (1, 2, 3) for _ in range(samples - 1)][: len(rows) - samples]
    pairs = list(read_rows(stage / "pairs.jsonl", Pair))
    assert pairs and {pair.kind for pair in pairs} <= {"safety", "over_refusal", "length", "utility", "format"}
    for pair in pairs:
        for side in (pair.chosen_ids, pair.rejected_ids):
            step = pair.prefix_ids + side
            assert any(row.token_ids[: len(step)] == step for row in drawn[pair.prompt_id])
    assert {pair.reason.split(":")[0] for pair in pairs} == {"assessment", "rules", "path", "answer"}


def test_it_goes_on_behind_nothing_that_is_bad(tmp_path: Path) -> None:
    config = of("safer")
    config = config.model_copy(update={"steps": config.steps.model_copy(update={"least": 3.5})})
    with pytest.raises(RunFailed, match="01-prefer has no pairs"):
        run(tmp_path, config)
    ledger = Ledger(Files(), tmp_path / "run/stages/01-prefer/candidates.jsonl", Candidate, read_only=True)
    assert {count for count in Counter(row.prompt_id for row in ledger).values()} == {config.prefer.samples}
