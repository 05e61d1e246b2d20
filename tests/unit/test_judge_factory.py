"""From sections to judges, with stand-ins for the models; and what is looked for before any of them is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes import EMPTY

from erpo_ray import preflight, rules
from erpo_ray.config.judges import (
    JudgeEnsemble,
    JudgeGuard,
    JudgeLLM,
    JudgeMember,
    JudgeReward,
    JudgeRules,
    has_model,
)
from erpo_ray.engines import embeddings, judges
from erpo_ray.engines.judges import Bench, judge_of
from erpo_ray.errors import UsageError
from erpo_ray.judging.ensemble import DISAGREEMENT, Ensemble
from erpo_ray.judging.guards import Question, Reply
from erpo_ray.types import Axes, Candidate, Failure, Prompt, Verdict

BOOK = rules.load()
BENCH = Bench(BOOK, "lines")
GUARD = JudgeGuard(model="guard", format="generic", max_length=256)
REWARD = JudgeReward(model="reward", axis="utility")
LLM = JudgeLLM(base_url="http://127.0.0.1:1/v1", model="m")


class Embedder:
    def __init__(self, rough: bool) -> None:
        assert rough

    def similarity(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [0.6] * len(pairs)


class GuardEngine:
    """Calls everything unsafe with p = 0.9."""

    made: list[tuple[Any, ...]] = []

    def __init__(self, *given: Any) -> None:
        self.made.append(given)

    def classify(self, questions: Sequence[Question]) -> list[Reply | Failure]:
        odds = {"safe": -2.302585, "unsafe": -0.105361}
        return [Reply(("unsafe", "\nfraud"), (odds, {})) for _ in questions]


class RewardModel:
    def __init__(self, *given: Any) -> None:
        self.given = given

    def score(self, items: Sequence[tuple[str, str]]) -> list[float | Failure]:
        return [0.0 for _ in items]


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "Embedder", Embedder)
    for stand_in in (GuardEngine, RewardModel):
        monkeypatch.setattr(judges, stand_in.__name__, stand_in)
    monkeypatch.setattr(judges, "materialise", lambda name, key: Path(name))
    GuardEngine.made.clear()


def verdict_of(settings: Any) -> Verdict:
    prompt = Prompt("p", "Why is the sky blue?", "benign")
    text = "Because air scatters blue light more than red light."
    (verdict,) = judge_of(settings, BENCH).judge([(prompt, Candidate("c", "p", 0, (1,), text, "stop", "v"))])
    return verdict


def test_each_section_makes_its_judge() -> None:
    assert verdict_of(JudgeRules()).judge == "rules"
    assert verdict_of(GUARD).partial == Axes(safety=pytest.approx(-0.8, abs=1e-4))
    assert verdict_of(REWARD) == Verdict("c", "reward_utility", partial=Axes(utility=0.0))
    assert judge_of(LLM, BENCH).name == "llm"


def test_a_guards_engine_is_as_its_section_says() -> None:
    judge_of(GUARD, Bench(BOOK, "lines", gpu=True))
    ((model, format, engine),) = GuardEngine.made
    assert (model, format.name) == (Path("guard"), "generic")
    assert (engine.max_length, engine.in_flight, engine.gpu, engine.sleep) == (256, GUARD.in_flight, True, False)


def test_an_ensemble_is_its_members_with_names_weights_and_vetoes() -> None:
    members = (
        JudgeMember(judge=JudgeRules(), safety=3.0),
        JudgeMember(judge=GUARD),
        JudgeMember(judge=GUARD, name="second", safety=0.0, veto=True),
        JudgeMember(judge=REWARD, utility=1.0),
    )
    settings = JudgeEnsemble(members=members)
    assert isinstance(judge_of(settings, BENCH), Ensemble)
    verdict = verdict_of(settings)
    assert [opinion.judge for opinion in verdict.opinions] == ["rules", "generic", "second", "reward_utility"]
    # Rules 1 with weight 3, the guard -0.8 with weight 1: 0.55, which the veto holds at -0.8.
    assert verdict.scores and verdict.scores.safety == pytest.approx(-0.8, abs=1e-4)
    assert verdict.scores.utility == pytest.approx(0.5)
    assert f"{DISAGREEMENT}:safety:unsafe=generic,second:safe=rules" in verdict.notes


def test_what_loads_a_model_is_known() -> None:
    rules_only = JudgeEnsemble(members=(JudgeMember(judge=JudgeRules()), JudgeMember(judge=LLM)))
    guarded = JudgeEnsemble(members=(JudgeMember(judge=JudgeRules()), JudgeMember(judge=GUARD)))
    assert [has_model(each) for each in (JudgeRules(), LLM, rules_only, GUARD, REWARD, guarded)] == [
        False, False, False, True, True, True
    ]  # fmt: skip


def folder(place: Path, template: bool = True, **config: object) -> str:
    place.mkdir()
    (place / "model.safetensors").write_bytes(EMPTY)
    (place / "config.json").write_text(json.dumps({"max_position_embeddings": 512, **config}))
    (place / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x"} if template else {}))
    return str(place)


def test_preflight_finds_what_a_model_lacks(tmp_path: Path) -> None:
    bare, whole = folder(tmp_path / "bare", template=False), folder(tmp_path / "whole")
    scorer = folder(tmp_path / "scorer", architectures=["LlamaForSequenceClassification"])
    preflight.judge(GUARD.model_copy(update={"model": whole}), BOOK)
    # Its prompt is plain text, so it needs no template.
    preflight.judge(JudgeGuard(model=bare, format="wild_guard", max_length=512), BOOK)
    preflight.judge(JudgeReward(model=scorer, axis="utility", max_length=512), BOOK)
    faults = [
        (GUARD.model_copy(update={"model": bare}), "bare has no chat template"),
        (GUARD.model_copy(update={"model": str(tmp_path / "none")}), "judge.model: .*none is no directory"),
        (JudgeGuard(model=whole, format="generic", max_length=1024), "`judge.max_length`: found 1024 .* 512 tokens"),
        (JudgeReward(model=whole, axis="utility", max_length=512), "whole is no sequence classifier"),
    ]
    for settings, said in faults:
        ensemble = JudgeEnsemble(members=(JudgeMember(judge=JudgeRules()), JudgeMember(judge=settings)))
        with pytest.raises(UsageError, match=said):
            preflight.judge(ensemble, BOOK)


def test_preflight_finds_a_missing_key_and_an_unusable_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    public = JudgeLLM(base_url="https://judge.example/v1", model="m", api_key_env="JUDGE_KEY")
    with pytest.raises(UsageError, match=r"judge.api_key_env: found \$JUDGE_KEY empty, .*; export JUDGE_KEY"):
        preflight.judge(public, BOOK)
    preflight.judge(LLM, BOOK)
    monkeypatch.setenv("JUDGE_KEY", "abc")
    preflight.judge(public.model_copy(update={"cache": str(tmp_path / "verdicts.sqlite")}), BOOK)
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(UsageError, match="text: no usable cache of verdicts"):
        preflight.judge(public.model_copy(update={"cache": str(tmp_path / "text")}), BOOK)
