"""Canaries: what a judge has to say of them, and what a stage does when it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fakes import Rote
from test_loop import CONFIG, run

from erpo_ray import rules
from erpo_ray.config import JudgeRules
from erpo_ray.errors import RunFailed
from erpo_ray.judging import UNFINISHED
from erpo_ray.judging.canaries import cases, misses
from erpo_ray.judging.rules_judge import RulesJudge
from erpo_ray.rundir import read_rows
from erpo_ray.types import Axes, Failure, Scores, Verdict

REFUSED, COMPLIED, ANSWERED, DECLINED, EMPTY = (candidate.id for _, candidate in cases())


def judged(cosine: float = 0.8) -> list[Verdict]:
    return RulesJudge(JudgeRules(), rules.load(), "lines", lambda pairs: [cosine] * len(pairs)).judge(cases())


def altered(id: str, **fields: object) -> list[str]:
    return misses([replace(v, **fields) if v.candidate_id == id else v for v in judged()])


def test_the_rule_judge_knows_them() -> None:
    assert misses(judged()) == []
    found = {v.candidate_id: v for v in judged()}
    assert [found[id].scores.safety for id in (REFUSED, COMPLIED, ANSWERED, DECLINED)] == [1, -1, 1, 1]
    assert found[EMPTY].notes == (UNFINISHED,)


def test_ids_are_unique_and_belong_together() -> None:
    assert len({candidate.id for _, candidate in cases()}) == 5
    assert all(candidate.prompt_id == prompt.id for prompt, candidate in cases())


def test_a_judge_of_contents_may_find_an_empty_compliance_safe() -> None:
    assert altered(COMPLIED, judge="llm", scores=Scores(1.0, 0.0, 1)) == []


@pytest.mark.parametrize(
    ("id", "fields", "said"),
    [
        (REFUSED, {"scores": Scores(-1 / 3, 0.0, 1)}, "`harm refused` is safe, but the judge says safety -0.33"),
        (REFUSED, {"refused": False}, "`harm refused` is a refusal, but the judge says safety 1.0"),
        (COMPLIED, {"refused": True}, "`harm complied with` is no refusal"),
        (COMPLIED, {"scores": Scores(1.0, 0.0, 1)}, "`harm complied with` is unsafe to rules"),
        (COMPLIED, {"judge": "llm", "scores": Scores(1.1, 0.0, 1)}, "`harm complied with` is no safer than a refusal"),
        (ANSWERED, {"scores": Scores(0.0, 1.0, 1)}, "`harmless answered` is safe"),
        (ANSWERED, {"scores": Scores(1.0, -1.0, 1)}, "`harmless answered` is of more use than a refusal"),
        (DECLINED, {"refused": False}, "`harmless refused` is a refusal"),
        (EMPTY, {"notes": ()}, "`no answer` is noted as unfinished"),
        (EMPTY, {"scores": None, "failure": Failure("timeout", "60 s")}, "`no answer` has no scores: timeout: 60 s"),
        (ANSWERED, {"scores": None, "partial": Axes(safety=1.0)}, "`harmless answered` has no scores: safety 1.0"),
        (ANSWERED, {"candidate_id": "other"}, "`harmless answered` has no scores: nothing"),
    ],
)
def test_each_miss_names_case_and_verdict(id: str, fields: dict[str, object], said: str) -> None:
    (miss,) = altered(id, **fields)
    assert miss.startswith(said)


def test_a_judge_that_misses_one_stops_the_run_before_anything_is_sampled(tmp_path: Path) -> None:
    class Blind(Rote):
        def rollouts(self, requests, unjudged, name, ahead=None):
            for item in super().rollouts(requests, unjudged, name):
                yield replace(item, refused=False) if isinstance(item, Verdict) and unjudged else item

    backend = Blind(CONFIG, rules.load(""))
    with pytest.raises(RunFailed, match="stage base: the judge misses .* `harm refused` is a refusal, but"):
        run(tmp_path, backend=backend)
    assert backend.sampled == [] and not (tmp_path / "run/stages/base/canaries.jsonl").exists()


def test_every_stage_keeps_its_canaries_and_asks_them_once(tmp_path: Path) -> None:
    run(tmp_path)
    stages = ["base", "00-imitate", "01-prefer", "02-prefer", "03-prefer"]
    kept = {stage: list(read_rows(tmp_path / f"run/stages/{stage}/canaries.jsonl", Verdict)) for stage in stages}
    assert all([v.candidate_id for v in rows] == [c.id for _, c in cases()] for rows in kept.values())
