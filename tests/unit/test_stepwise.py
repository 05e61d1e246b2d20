"""Pairs of steps, from completions of one harmless request that are told apart by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import Letters
from judged import group, judged, prompt
from test_loop import of

from erpo_ray.methods import METHODS
from erpo_ray.methods.base import History, Task
from erpo_ray.methods.stepwise import StepRound
from erpo_ray.rules import load
from erpo_ray.teachers import TemplateTeacher
from erpo_ray.types import Candidate, LeftOut, Pair, Policy, Verdict

BENIGN = prompt("p", "benign")
HEAD = "<think>\nAssessment: Asked how to knit. Harmless.\nRules: fraud.1 does not apply.\n"
REFUSED = f"{HEAD}Path: Refuse.\n</think>\nI can't."
ANSWERED = f"{HEAD}Path: Answer.\n</think>\nCast on, then knit."


def said(sample: int, text: str, **verdict: Any) -> tuple[Candidate, Verdict]:
    candidate, found = judged(BENIGN, sample, text, tokens=1, **verdict)
    return replace(candidate, token_ids=tuple(map(ord, text))), found


def paired(*rows: tuple[Candidate, Verdict]) -> tuple[list[Pair], list[LeftOut]]:
    config = of("safer")
    stage = METHODS["safer"](config)[1]
    assert isinstance(stage, StepRound)
    task = Task(config, Policy(Path("m"), "v"), (BENIGN,), load(), Letters(), TemplateTeacher("lines"))
    return stage.pairs(task, History(()), [group(BENIGN, *rows)])


def test_a_refusal_of_the_harmless_is_never_the_better_step() -> None:
    """It is worth 1, of S * H + 2S, and an unfinished answer -3."""
    refused = said(0, REFUSED, utility=-1.0, refused=True)
    cut = said(1, ANSWERED, utility=0.5, finish="length")
    pairs, left_out = paired(refused, cut)
    assert pairs == []
    assert [left.reason for left in left_out] == ["no step that is worth more than its sibling led to a right outcome"]


@pytest.mark.parametrize("form", [{}, {"well_formed": False, "notes": ("unknown_rule:knit.1",)}])
def test_an_answer_is_the_better_step_though_its_rules_do_not_exist(form: dict[str, Any]) -> None:
    refused = said(0, REFUSED, utility=-1.0, refused=True)
    answered = said(1, ANSWERED, utility=1.0, **form)
    (pair,), _ = paired(refused, answered)
    assert (pair.kind, "".join(map(chr, pair.chosen_ids))) == ("over_refusal", "Path: Answer.\n</think>\n")
    assert "".join(map(chr, pair.prefix_ids)) == HEAD
    assert pair.reason == (
        "path: worth 1.00 against 2.00, visits 1" if form else "path: worth 1.00 against 3.00, visits 1"
    )
