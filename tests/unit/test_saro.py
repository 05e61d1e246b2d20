"""SaRO: where chains reflect and which make a process pair, by hand, and a round of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from judged import group, judged, prompt
from test_loop import of, run

from erpo_ray.config import Prefer
from erpo_ray.items import Item, usable
from erpo_ray.methods.saro import process_pairs, reflects
from erpo_ray.rundir import Files, Ledger, read_rows
from erpo_ray.types import Candidate, Label, Pair

HARMFUL = prompt("h", "harmful")


@pytest.mark.parametrize(
    ("pieces", "label", "expected"),
    [
        (["<think>", "Assessment: ", "a lock. ", "Harm", "ful", ". Rules"], "harmful", 4),
        (["<think>", "Assessment: ", "a lock. ", "Harm", "less", "."], "harmful", None),
        (["<think>", "Harmless."], "benign", 1),
        # The first word counts, not one that mends it.
        (["Harmless. ", "No: Harmful."], "harmful", None),
        (["<think>", "a lock"], "benign", None),
        # What the answer says is no reflection.
        (["<think>a</think>", "Harmless."], "benign", None),
    ],
)
def test_where_a_chain_reflects(pieces: list[str], label: Label, expected: int | None) -> None:
    assert reflects(pieces, label) == expected


def chains(*rows: tuple[int | None, float]) -> list[tuple[Item, int | None]]:
    """(where it reflects, safety) of chains of ten tokens."""
    found = [judged(HARMFUL, n, f"chain {n}", tokens=10, safety=safety) for n, (_, safety) in enumerate(rows)]
    items, _ = usable(group(HARMFUL, *found), Prefer(), None, True)
    by_text = {item.candidate.text: item for item in items}
    return [(by_text[f"chain {n}"], at) for n, (at, _) in enumerate(rows)]


def test_the_first_to_reflect_stands_over_one_that_never_does() -> None:
    told = chains((6, 1.0), (4, 1.0), (9, 1.0), (None, -1.0))
    (found,) = process_pairs(group(HARMFUL), told, 3, 4)
    assert (found.chosen_ids, found.rejected_ids) == (
        told[1][0].candidate.token_ids[3:],
        told[3][0].candidate.token_ids[3:],
    )
    assert (found.prefix_ids, found.kind) == (told[1][0].candidate.token_ids[:3], "safety")
    (found,) = process_pairs(group(HARMFUL), told[:3], 3, 4)
    assert found.rejected_ids == told[2][0].candidate.token_ids[3:]
    assert (found.kind, found.reason, found.length_weight) == (
        "length",
        "process: rejected reflects 5 tokens later",
        1.0,
    )


def test_without_a_good_chain_or_a_later_one_there_is_no_pair() -> None:
    assert process_pairs(group(HARMFUL), chains((2, -1.0), (None, -1.0)), 1, 4) == (
        "no chain behind the beginning reflects and passes"
    )
    assert process_pairs(group(HARMFUL), chains((2, 1.0), (5, 1.0)), 1, 4) == (
        "no chain behind the beginning reflects 4 tokens later"
    )


def test_a_round_has_pairs_of_both_kinds(tmp_path: Path) -> None:
    config = of("saro")
    run(tmp_path, config)
    stage = tmp_path / "run/stages/01-prefer"
    candidates = list(Ledger(Files(), stage / "candidates.jsonl", Candidate, read_only=True))
    assert {one.given > 0 for one in candidates if one.sample >= config.prefer.samples} == {True}
    assert {one.given for one in candidates if one.sample < config.prefer.samples} == {0}
    pairs = list(read_rows(stage / "pairs.jsonl", Pair))
    process = [pair for pair in pairs if pair.reason.startswith("process")]
    assert process and len(process) < len(pairs)
    assert all(pair.prefix_ids for pair in process)
    assert not any(pair.prefix_ids for pair in pairs if pair not in process)
    for pair in process:
        for side in (pair.chosen_ids, pair.rejected_ids):
            whole = pair.prefix_ids + side
            assert any(one.token_ids == whole and one.given == len(pair.prefix_ids) for one in candidates)
