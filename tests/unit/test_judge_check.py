"""`erpo judge-check` with a judge that answers by rote: what rows mean, what a card says of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from erpo_ray import preflight
from erpo_ray.commands import judge_check
from erpo_ray.config import Config
from erpo_ray.config.judges import (
    AnyJudge,
    JudgeEnsemble,
    JudgeGuard,
    JudgeLLM,
    JudgeMember,
    JudgeReward,
    JudgeRules,
)
from erpo_ray.engines import judges
from erpo_ray.errors import UsageError
from erpo_ray.judging.pleas import cases
from erpo_ray.judging.search import Search, Turned
from erpo_ray.prompts.labelled import Labelled, Preferred, rows
from erpo_ray.types import Axes, Candidate, Failure, Prompt, Rate, Verdict

TEXTS = [
    {"id": "1", "prompt": "q", "response": "awful", "label": "harmful"},
    {"id": "2", "prompt": "q", "response": "bad", "label": "harmful"},
    {"id": "3", "prompt": "q", "response": "fine", "label": "benign"},
    {"id": "4", "prompt": "awful", "label": "benign"},
    {"id": "5", "prompt": "odd", "label": "benign"},
]
HARM: dict[str, float | None] = {"awful": 0.9, "bad": 0.4, "fine": 0.1, "odd": None}


@pytest.fixture
def by_rote(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    asked: list[tuple[str, str]] = []

    def measure(texts: Sequence[tuple[str, str]]) -> tuple[list[float | None], None]:
        asked.extend(texts)
        return [HARM[text] for _, text in texts], None

    monkeypatch.setattr(judge_check, "_gauge", lambda section, config: judge_check.Gauge(measure, section is None))
    return asked


def lines(path: Path, found: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


def numbered(found: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"f:{number}", row) for number, row in enumerate(found, 1)]


def test_a_card_counts_what_the_judge_said(
    tmp_path: Path, by_rote: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    file = lines(tmp_path / "texts.jsonl", TEXTS)
    assert judge_check.check("classifier", file, None, tmp_path / "judges") == 0
    assert by_rote == [("q", "awful"), ("q", "bad"), ("q", "fine"), ("", "awful"), ("", "odd")]
    card = json.loads((tmp_path / "judges" / "classifier-texts.json").read_text())
    assert (card["judge"], card["data"], card["n"], card["invalid"]) == ("classifier", "texts.jsonl", 5, 1)
    assert card["confusion"] == {"true_positive": 1, "false_positive": 1, "false_negative": 1, "true_negative": 1}
    # Harmful .9 and .4 against benign .1 and .9: won, tied, won, lost.
    assert card["auroc"]["value"] == pytest.approx(2.5 / 4)
    assert card["brier"]["value"] == pytest.approx((0.01 + 0.36 + 0.01 + 0.81) / 4)
    assert "auroc              0.625 [" in capsys.readouterr().out


def test_a_card_holds_the_words_that_the_judge_was_given(tmp_path: Path, by_rote: list[tuple[str, str]]) -> None:
    file, llm = lines(tmp_path / "texts.jsonl", TEXTS), "{type: llm, base_url: 'http://h/v1', model: m"
    for name, text in (("plain", f"{llm}}}"), ("guided", f"{llm}, guidance: Look hard.}}")):
        (tmp_path / f"{name}.yaml").write_text(text)
        judge_check.check(str(tmp_path / f"{name}.yaml"), file, None, tmp_path)
    plain, guided = (json.loads((tmp_path / f"{name}-texts.json").read_text()) for name in ("plain", "guided"))
    assert "guidance" not in plain and guided == {**plain, "judge": "guided", "guidance": "Look hard."}


def test_scores_that_are_no_probabilities_have_no_calibration(
    tmp_path: Path, by_rote: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    judge_check.check("rules,classifier", lines(tmp_path / "texts.jsonl", TEXTS), None, None)
    rule_card, rest = capsys.readouterr().out.split("classifier on texts.jsonl")
    assert "ece                not defined here" in rule_card and "ece                not" not in rest
    assert "same verdict       1.000 over 4" in rest and "Cohen's kappa      1.000 over 4" in rest


def test_preferences_are_won_by_the_answer_of_less_harm(
    tmp_path: Path, by_rote: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [("fine", "bad"), ("awful", "bad"), ("bad", "bad"), ("fine", "odd"), ("bad", "awful")]
    found = [{"id": str(n), "prompt": "q", "preferred": a, "rejected": b} for n, (a, b) in enumerate(pairs)]
    judge_check.check("rules", lines(tmp_path / "pairs.jsonl", found), None, tmp_path)
    card = json.loads((tmp_path / "rules-pairs.json").read_text())
    assert (card["n"], card["invalid"]) == (5, 1)
    assert (card["accuracy"]["value"], card["accuracy"]["n"]) == (0.5, 4)
    assert (card["accuracy_decided"]["value"], card["accuracy_decided"]["n"]) == (pytest.approx(2 / 3), 3)


def test_what_a_search_finds_stands_on_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []

    def searched(queries: int) -> Search:
        asked.append(queries)
        found = (Turned("q", "a long text", 7), Turned("r", "short\x1b", 3)) if queries > 7 else ()
        return Search(queries, 4, Rate(0.5, 0.15, 0.85, 4), 5.0 if found else None, 1, found)

    gauge = judge_check.Gauge(lambda texts: ([HARM[text] for _, text in texts], None), False, searched)
    monkeypatch.setattr(judge_check, "_gauge", lambda section, config: gauge)
    file = lines(tmp_path / "texts.jsonl", TEXTS)
    judge_check.check("rules", file, None, tmp_path, 9)
    card = json.loads((tmp_path / "rules-texts.json").read_text())
    assert (card["search_queries"], card["searched"], card["search_median"], card["search_failures"]) == (9, 4, 5, 1)
    assert card["search_turned"] == {"value": 0.5, "low": 0.15, "high": 0.85, "n": 4}
    assert card["search_found"][0] == {"prompt": "q", "text": "a long text", "queries": 7}
    shown = capsys.readouterr().out
    assert "search turned      0.500 [0.150 to 0.850]   over 4" in shown and "search found       'short\\x1b'" in shown
    judge_check.check("rules", file, None, None, 2)
    assert "search found       nothing" in capsys.readouterr().out
    judge_check.check("rules", file, None, tmp_path, 0)
    assert "search_turned" not in json.loads((tmp_path / "rules-texts.json").read_text())
    judge_check.check("rules", file, None, None)
    assert asked == [9, 2, 500]


def test_a_search_that_nobody_asked_for_costs_little_time_and_no_money() -> None:
    guard = JudgeGuard(model="m", format="qwen3guard")
    endpoint = JudgeLLM(base_url="http://127.0.0.1:1/v1", model="m")
    reward = JudgeReward(model="m", axis="safety")

    def ensemble(*judges: JudgeRules | JudgeGuard | JudgeLLM) -> JudgeEnsemble:
        return JudgeEnsemble(members=tuple(JudgeMember(judge=each) for each in judges))

    found = [judge_check._queries(each) for each in (None, JudgeRules(), guard, reward, endpoint)]
    assert found == [0, 500, 0, 0, 0]
    assert judge_check._queries(ensemble(JudgeRules())) == 500
    assert judge_check._queries(ensemble(JudgeRules(), guard)) == 0


@pytest.mark.parametrize("backend", ["ray", "inprocess"])
def test_a_judge_with_a_model_is_asked_once_on_ray_data_or_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    safety = {"awful": -1.0, "bad": -0.2, "fine": 0.8}
    asked: list[tuple[str, int]] = []

    def said(place: str, items: Sequence[tuple[Prompt, Candidate]]) -> list[Verdict]:
        asked.append((place, len(items)))
        return [
            Verdict(candidate.id, "reward_safety", failure=Failure("too_long"))
            if candidate.text == "odd"
            else Verdict(candidate.id, "reward_safety", partial=Axes(safety=safety.get(candidate.text, -1.0)))
            for _, candidate in items
        ]

    def on_ray(config: Config, section: AnyJudge, items: Sequence[tuple[Prompt, Candidate]]) -> list[Verdict]:
        assert (section.type, config.backend) == ("reward_model", "ray")
        return said("ray", items)

    here = SimpleNamespace(name="reward_safety", judge=lambda items: said("here", items))
    monkeypatch.setitem(sys.modules, "erpo_ray.cluster.scoring", SimpleNamespace(verdicts=on_ray))
    monkeypatch.setattr(judges, "judge_of", lambda section, bench: here)
    monkeypatch.setattr(preflight, "judge", lambda section, book: None)
    (tmp_path / "cost.yaml").write_text("{type: reward_model, model: m, axis: safety}\n")
    (tmp_path / "c.yaml").write_text(f"backend: {backend}\n")
    file = lines(tmp_path / "texts.jsonl", TEXTS)
    judge_check.check(str(tmp_path / "cost.yaml"), file, tmp_path / "c.yaml", tmp_path)
    assert asked == [("ray" if backend == "ray" else "here", len(TEXTS) + len(cases()))]
    card = json.loads((tmp_path / "cost-texts.json").read_text())
    # Harm is (1 - safety) / 2: 1, .6 and .1, and 1 for the benign text; the failed verdict counts apart.
    assert card["confusion"] == {"true_positive": 2, "false_positive": 1, "false_negative": 0, "true_negative": 1}
    assert (card["invalid"], card["plea_failures"], card["unsafe_turned"]["value"]) == (1, 0, 0.0)


def test_rows_are_texts_answers_or_preferences() -> None:
    assert rows(numbered(TEXTS))[0] == Labelled("1", "q", "awful", True)
    assert rows(numbered(TEXTS))[3] == Labelled("4", "", "awful", False)
    pair = {"id": "p", "prompt": "q", "preferred": "a", "rejected": "b"}
    assert rows(numbered([pair])) == [Preferred("p", "q", "a", "b")]
    for found, message in (
        ([TEXTS[0], pair], "f:2: found labelled texts and preferences"),
        ([{"prompt": "q"}], "f:1: found no `label`"),
        ([{**TEXTS[0], "response": " "}], "f:1: response: found no text"),
        ([], "found no rows"),
    ):
        with pytest.raises(UsageError, match=message):
            rows(numbered(found))


def test_wrong_words_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found the judge 'rulse'; known judges: rules, classifier, and YAML files"):
        judge_check.check("rulse", tmp_path / "x.jsonl", None, None)
    with pytest.raises(UsageError, match="no such file"):
        judge_check.check("rules", tmp_path / "x.jsonl", None, None)
    twice = judge_check._measured(rows(numbered([TEXTS[0], TEXTS[0]])), [0.1, 0.1])
    with pytest.raises(UsageError, match="'1' comes more than once; ids are unique in a file"):
        judge_check._card(twice, True)
