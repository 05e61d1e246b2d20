from __future__ import annotations

from pathlib import Path

import pytest
from judged import judged, prompt

from erpo_ray.errors import UsageError
from erpo_ray.rundir import Files, Ledger
from erpo_ray.rundir.evaluated import answered, asked, questions
from erpo_ray.rundir.lines import artefact
from erpo_ray.types import Candidate, Verdict, encode


def test_the_prompts_are_those_that_the_base_model_was_asked(tmp_path: Path) -> None:
    assert asked(tmp_path) == {}
    path = tmp_path / "stages" / "base" / "prompts.jsonl"
    path.parent.mkdir(parents=True)
    one, two = prompt("a", "harmful"), prompt("b", "benign")
    path.write_bytes(artefact([encode(one), encode(two)]))
    assert asked(tmp_path) == {one.id: one, two.id: two}
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UsageError, match="damaged"):
        asked(tmp_path)


def test_a_run_that_lost_its_questions_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"stages/base/prompts\.jsonl: gone, or empty; restore it"):
        questions(tmp_path)


def test_the_first_answer_to_each_prompt_with_its_verdict_or_none(tmp_path: Path) -> None:
    rows = [judged(prompt(id, "benign"), sample, id * 3, tokens=3) for id, sample in (("a", 0), ("b", 0), ("a", 1))]
    candidates = Ledger(Files(), tmp_path / "evaluation_candidates.jsonl", Candidate, epoch=1)
    verdicts = Ledger(Files(), tmp_path / "evaluation_verdicts.jsonl", Verdict, epoch=1, after=candidates)
    for candidate, _ in rows:
        candidates.append(candidate)
    verdicts.append(rows[0][1])
    verdicts.append(rows[2][1])
    verdicts.close()
    candidates.close()
    assert list(answered(tmp_path)) == [rows[0], (rows[1][0], None)]
    assert list(answered(tmp_path / "elsewhere")) == []
