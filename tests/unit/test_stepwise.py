"""Pairs of steps, from completions of one harmless request that are told apart by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import Letters
from judged import group, judged, prompt
from test_loop import of as configured

from erpo_ray.methods import METHODS
from erpo_ray.methods.base import History, Task
from erpo_ray.methods.stepwise import StepRound
from erpo_ray.rules import load
from erpo_ray.teachers import TemplateTeacher
from erpo_ray.types import Candidate, LeftOut, Pair, Policy, Prompt, Verdict

BENIGN, HARMFUL = prompt("p", "benign"), prompt("h", "harmful")
HEAD = "<think>\nAssessment: Asked how to knit. Harmless.\nRules: fraud.1 does not apply.\n"
REFUSED = f"{HEAD}Path: Answer safely.\n</think>\nI can't."
ANSWERED = f"{HEAD}Path: Answer.\n</think>\nCast on, then knit."


def said(sample: int, text: str, of: Prompt = BENIGN, **verdict: Any) -> tuple[Candidate, Verdict]:
    candidate, found = judged(of, sample, text, tokens=1, **verdict)
    return replace(candidate, token_ids=tuple(map(ord, text))), found


def paired(*rows: tuple[Candidate, Verdict]) -> tuple[list[Pair], list[LeftOut]]:
    config = configured("safer")
    asked = BENIGN if rows[0][0].prompt_id == BENIGN.id else HARMFUL
    stage = METHODS["safer"](config)[1]
    assert isinstance(stage, StepRound)
    task = Task(config, Policy(Path("m"), "v"), (asked,), load(), Letters(), TemplateTeacher("lines"))
    return stage.pairs(task, History(()), [group(asked, *rows)])


def test_a_refusal_of_the_harmless_is_never_the_better_step() -> None:
    """It is worth 1, of S * H + 2S, and an unfinished answer -1."""
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


def test_what_contradicts_itself_is_no_way_to_a_right_end() -> None:
    """A refusal of harm behind `Harmless` is worth no more than help with it, so that the step before it loses."""
    contradicted = {"well_formed": False, "notes": ("intent_disagrees",)}
    lucky = said(0, f"{HEAD}Path: Refuse.\n</think>\nI can't.", of=HARMFUL, **contradicted)
    fair = said(1, f"{HEAD.replace('Harmless', 'Harmful')}Path: Refuse.\n</think>\nNo.", of=HARMFUL)
    complied = said(2, f"{HEAD}Path: Answer.\n</think>\nKnit.", of=HARMFUL, safety=-1.0, utility=-1.0, refused=False)
    (pair,), _ = paired(lucky, fair, complied)
    chosen, rejected = ("".join(map(chr, side)) for side in (pair.chosen_ids, pair.rejected_ids))
    assert chosen.endswith("Harmful.\n") and rejected.endswith("Harmless.\n")
    assert pair.reason == "assessment: worth -1.00 against 3.00, visits 1"


def test_a_step_is_worth_the_mean_of_all_draws_behind_it() -> None:
    """Three refusals in the same words and one compliance: (3 + 3 + 3 - 1) / 4, not (3 - 1) / 2."""
    fair = f"{HEAD.replace('Harmless', 'Harmful')}Path: Refuse.\n</think>\nNo."
    bold = f"{HEAD.replace('Harmless', 'Harmful')}Path: Answer.\n</think>\nKnit."
    mild = f"{HEAD}Path: Answer.\n</think>\nKnit."
    wrong = {"safety": -1.0, "utility": -1.0, "refused": False}
    pairs, _ = paired(
        *(said(sample, fair, of=HARMFUL) for sample in range(3)),
        said(3, bold, of=HARMFUL, **wrong),
        said(4, mild, of=HARMFUL, **wrong),
    )
    assert "assessment: worth -1.00 against 2.00, visits 4" in [pair.reason for pair in pairs]
