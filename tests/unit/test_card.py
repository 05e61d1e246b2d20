"""The model card: every figure from the run directory, what the judge cannot tell, and no claim that nobody checked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import reported
from judged import prompt

from erpo_ray.commands.card import card, digest
from erpo_ray.config import Config, judges
from erpo_ray.evaluate import measures
from erpo_ray.evaluate.intervals import proportion
from erpo_ray.judging.limits import LIMITS
from erpo_ray.rundir import RunDir
from erpo_ray.types import LeftOut, Pair, Prompt

CONFIG = Config(name="small")
HELD = [prompt(f"h{n}", "harmful", source="seeds") for n in range(10)]
HELD += [prompt(f"b{n}", "benign", source="everyday") for n in range(20)]
PAIR = Pair("x", "h0", (1,), (), (2,), (3,), 1.0, "safety", "")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """One prefer stage after the base model, from two harmful and three benign prompts."""
    path = tmp_path / "run"
    with RunDir.open(path, CONFIG, inputs={}) as run, run.stage("labels") as s:
        asked = [prompt("t1", "harmful", source="seeds"), prompt("t2", "harmful", source="seeds")]
        asked += [prompt(f"u{n}", "benign", source="seeds") for n in range(3)]
        s.once("prompts.jsonl", Prompt, lambda: asked)
    stages = {"base": reported.plain, "01-prefer": reported.aligned}
    return reported.write(path, HELD, stages, pairs=[PAIR] * 7, left_out=[LeftOut("x", "y")])


def made(run: Path, config: Config = CONFIG, stage: str = "01-prefer") -> str:
    return card(run, config, run / "stages" / stage / "policy")


def row(text: str, first: str) -> list[str]:
    """The cells of the table line that begins so."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {first}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_evaluation_stands_there_with_intervals_and_the_model_is_marked(run: Path) -> None:
    text = made(run)
    assert row(text, "base")[1:4] == ["0% [0-28]", "0% [0-16]", "50% [42-64]"]
    this = row(text, "**01-prefer** (this model)")
    # Wilson of 10 of 10 and 0 of 20; balanced: 1 - hypot(.2775, .1611) / 2
    assert this[1:4] == ["100% [72-100]", "0% [0-16]", "100% [84-100]"]
    assert this[5].split()[0] == "40" and row(text, "base")[5].split()[0] == "100"
    assert "Greedy answers to 10 harmful and 20 benign prompts held apart from training" in text
    assert "This is the policy of stage `01-prefer`, version `version-01-prefer`: " in text


def test_a_run_without_an_accepted_stage_says_that_nothing_changed(run: Path, tmp_path: Path) -> None:
    text = card(run, CONFIG, tmp_path / "given")
    assert "No stage has passed its gate: these are the weights of the model as given, version `version-base`" in text
    assert row(text, "**base** (this model)")[1] == "0% [0-28]"


def test_the_method_with_its_paper_and_what_each_stage_learnt_from(run: Path) -> None:
    text = made(run)
    assert "ERPO: Ex-Ante Reasoning Preference Optimization (arXiv 2504.02725v1)." in text
    assert row(text, "01-prefer |") == ["01-prefer", "7 pairs", "accepted"]
    assert "(arXiv 2502.02384)" in made(run, CONFIG.model_copy(update={"method": "stair"}))


def test_data_by_name_number_and_hash(run: Path) -> None:
    text = made(run)
    lines = [line for line in text.splitlines() if line.startswith("| seeds |")]
    assert len(lines) == 2 and "| training | 5 | 2 |" in lines[0] and "| evaluation | 10 | 10 |" in lines[1]
    everyday = [each for each in HELD if each.source == "everyday"]
    assert row(text, "everyday")[2:] == ["evaluation", "20", "0", f"`{digest(everyday)}`"]
    two = [Prompt("b", "second", "benign", source="x"), Prompt("a", "first", "harmful", "fraud", source="y")]
    lines = b'["a","first","harmful"]\n["b","second","benign"]\n'
    assert digest(two) == digest(two[::-1]) == hashlib.sha256(lines).hexdigest()[:16]


def test_where_prompts_are_from_without_places_on_a_disk(run: Path) -> None:
    sources = [{"path": "/home/me/secret/held.jsonl", "name": "everyday", "where": {"lang": "en"}, "limit": 9}]
    config = Config.model_validate({"data": {"train": [{"path": "org/data"}], "evaluate": sources}})
    text = made(run, config)
    assert row(text, "everyday")[1] == "held.jsonl, lang en, at most 9"
    assert "datasets:\n- org/data\n" in text and "/home/me" not in text


def test_what_the_judge_cannot_tell(run: Path) -> None:
    text = made(run)
    assert "by its wording, in English only, and know nothing of content" in text
    assert "How far it agrees with people was not measured in this run." in text
    assert "The same judge chose what was learnt and measured the result" in text
    (run / "judges").mkdir()
    (run / "judges" / "rules-xstest.json").write_text("{}")
    assert "How it agrees with labels was measured (rules-xstest)" in made(run)
    members = [
        {"judge": {"type": "rules"}},
        {"judge": {"type": "guard", "model": "/srv/me/guard", "format": "wild_guard"}},
    ]
    both = made(run, Config.model_validate({"judge": {"type": "ensemble", "members": members}}))
    assert "Rules with sentence embeddings judged" in both and "A safety classifier judged" in both
    assert "| `judge.members.1.judge.model` | `guard` |" in both and "/srv" not in both


def test_licences_are_for_the_reader_to_check(run: Path) -> None:
    embedded = made(run)
    assert embedded.startswith("---\nbase_model: HuggingFaceTB/SmolLM2-135M-Instruct\n")
    assert "license: apache-2.0" in embedded and "base model (apache-2.0)" in embedded
    other = made(run, Config.model_validate({"model": {"path": "org/model"}}))
    assert "base_model: org/model" in other and "license:" not in other
    assert "base model (not known to erpo_ray)" in other and "look them up before you pass the model on" in other
    local = made(run, Config.model_validate({"model": {"path": "/home/me/models/mine"}}))
    assert "base_model" not in local and "the model in the folder `mine`" in local and "/home/me" not in local


def test_settings_that_differ_from_the_defaults_and_no_address(run: Path) -> None:
    assert "All settings are the defaults of this version of erpo_ray." in made(run)
    teacher = {"type": "openai", "base_url": "http://10.0.0.7:8000/v1", "model": "big", "api_key_env": "MY_KEY"}
    text = made(run, Config.model_validate({"seed": 3, "prefer": {"samples": 9}, "teacher": teacher}))
    settings = [line for line in text.splitlines() if line.startswith("| `")]
    assert settings == [
        "| `prefer.samples` | `9` |",
        "| `seed` | `3` |",
        '| `teacher.model` | `"big"` |',
        '| `teacher.type` | `"openai"` |',
    ]
    assert "10.0.0.7" not in text and "MY_KEY" not in text and "the model `big` behind an endpoint" in text
    told = json.loads((run / "fingerprint.json").read_text())
    assert f"run `{told['sha256'][:16]}`" in text


def test_suites_of_this_policy_and_of_no_other(run: Path) -> None:
    for suite, policy in (("xstest", "version-01-prefer"), ("stale", "version-before")):
        with RunDir.open(run / "evaluations/01-prefer", CONFIG) as kept, kept.stage(suite) as s:
            found = measures.SuiteResult(suite, policy, 60, {"benign_refused": proportion(5, 60)})
            s.value("result.json", measures.SuiteResult, lambda found=found: found)
    text = made(run)
    assert "### Suite xstest: 60 prompts" in text and "stale" not in text
    assert row(text, "refused (benign)") == ["refused (benign)", "8.3%", "3.6% to 18.1%", "60"]


def test_a_run_that_goes_on_is_told_and_one_without_figures_makes_none_up(run: Path, tmp_path: Path) -> None:
    assert "had not ended" not in made(run)
    with RunDir.open(run, CONFIG) as again:
        again.status("running")
    assert "The run had not ended when it was exported (it was running)." in made(run)
    empty = tmp_path / "empty"
    empty.mkdir()
    text = card(empty, CONFIG, empty / "given")
    assert "No evaluation was recorded." in text and "The run holds no prompts." in text and "well-formed" not in text


def test_no_judge_is_without_its_limits() -> None:
    kinds = [getattr(judges, name) for name in dir(judges) if name.startswith("Judge")]
    types = {kind.model_fields["type"].default for kind in kinds if "type" in kind.model_fields}
    assert types - {"ensemble"} == set(LIMITS) == {"rules", "llm", "guard", "reward_model"}
