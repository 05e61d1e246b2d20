"""The judge's section by its type: defaults, faults by key and line, what an ensemble must hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from erpo_ray import settings
from erpo_ray.config import Config
from erpo_ray.config.judges import JudgeEnsemble, JudgeGuard, JudgeLLM, JudgeMember, JudgeReward, JudgeRules
from erpo_ray.errors import UsageError
from erpo_ray.rundir.fingerprint import config_yaml, fingerprint

EXAMPLES = re.findall(r"```yaml\n(.*?)```", (Path(__file__).parents[2] / "docs/judges.md").read_text(), re.DOTALL)
LLM = "{type: llm, base_url: 'http://judge:8000/v1', model: m}"
GUARD = "{type: guard, model: m, format: generic}"
ENSEMBLE = f"""\
judge:
  type: ensemble
  members:
  - judge: {{min_answer_tokens: 4}}
    veto: true
  - judge: {GUARD}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def complaint(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        settings.load(written(folder, text))
    return str(caught.value).replace(f"{folder}/", "")


def test_without_a_type_it_is_the_rule_judge(tmp_path: Path) -> None:
    config = settings.load(written(tmp_path, "judge: {min_answer_tokens: 3}\n"), ["judge.max_failure_rate=0.5"])
    assert config.judge == JudgeRules(min_answer_tokens=3, max_failure_rate=0.5)


def test_another_type_has_its_own_defaults_and_takes_overrides(tmp_path: Path) -> None:
    llm = JudgeLLM(base_url="http://judge:8000/v1", model="m", concurrency=2)
    assert settings.load(written(tmp_path, f"judge: {LLM}\n"), ["judge.concurrency=2"]).judge == llm
    given = ["judge.type=llm", "judge.base_url=http://judge:8000/v1", "judge.model=m", "judge.concurrency=2"]
    assert settings.load(written(tmp_path, ""), given).judge == llm
    assert llm.max_failure_rate == JudgeRules().max_failure_rate


def test_an_ensemble_holds_judges_of_several_types(tmp_path: Path) -> None:
    judge = settings.load(written(tmp_path, ENSEMBLE), ["judge.members.1.safety=2.0", "judge.quorum=2"]).judge
    rules = JudgeMember(judge=JudgeRules(min_answer_tokens=4), veto=True)
    guard = JudgeMember(judge=JudgeGuard(model="m", format="generic"), safety=2.0)
    assert judge == JudgeEnsemble(members=(rules, guard), quorum=2)
    assert [member.called for member in judge.members] == ["rules", "generic"]


def test_members_have_names_of_their_own() -> None:
    reward = JudgeReward(model="m", axis="utility")
    assert JudgeMember(judge=reward).called == "reward_utility"
    assert JudgeMember(judge=reward.model_copy(update={"axis": "safety"}), name="cost").called == "cost"


def test_what_a_run_keeps_loads_to_the_same_judge(tmp_path: Path) -> None:
    for text in (f"judge: {LLM}\n", ENSEMBLE, ""):
        config = settings.load(written(tmp_path, text))
        assert settings.load(written(tmp_path, config_yaml(config).decode())) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("judge: {relevance_flor: 0}", "1: key `judge.relevance_flor`: found 0 (whole number); unknown key, did you "
         "mean `judge.relevance_floor`?"),
        ("judge:\n  type: llm\n  model: m\n  base_ur: x\n  base_url: 'http://a/v1'", "4: key `judge.base_ur`: found "
         "'x' (text); unknown key, did you mean `judge.base_url`?"),
        ("base_url: x", "1: key `base_url`: found 'x' (text); unknown key, did you mean `teacher.base_url` or "
         "`judge.base_url`?"),
        ("judge: {type: llm, model: m}", "1: key `judge.base_url`: missing; Root of the endpoint, for example "
         "http://127.0.0.1:8000/v1. Its key is sent nowhere else"),
        (f"judge: {GUARD}", "1: key `judge.type`: found 'guard' (text); use one of rules, llm, ensemble; a guard or "
         "a reward_model does not measure every axis: make it a member of an ensemble, beside rules or llm"),
        ("judge: 5", "1: key `judge`: found 5 (whole number); write a section with keys of max_failure_rate, type, "
         "min_answer_tokens, relevance_floor, relevance_full"),
        (ENSEMBLE + "  - judge: {type: gaurd}", "7: key `judge.members.2.judge.type`: found 'gaurd' (text); use one "
         "of rules, llm, guard, reward_model"),
        (ENSEMBLE + "  - judge: {type: reward_model, model: m, axis: safety, scael: 2}", "7: key "
         "`judge.members.2.judge.scael`: found 2 (whole number); unknown key, did you mean "
         "`judge.members.2.judge.scale`?"),
        (ENSEMBLE + "    utilty: 3", "7: key `judge.members.1.utilty`: found 3 (whole number); unknown key, did you "
         "mean `judge.members.1.utility`?"),
        (ENSEMBLE + f"  - judge: {GUARD}", "3: key `judge.members`: judge.members: generic stands there twice; give "
         "one of them another `name`"),
        (ENSEMBLE + "  quorum: 3", "7: key `judge.quorum`: judge.quorum (3) is more than the number of members (2)"),
        (ENSEMBLE.replace("veto: true", "utility: 0.0"), "3: key `judge.members`: judge.members: none measures "
         "utility; add rules or llm, with a weight on utility"),
        (f"judge: {{type: ensemble, members: [{{judge: {GUARD}}}, {{judge: {{type: reward_model, model: m, axis: "
         "utility}}]}", "1: key `judge.members`: judge.members: none reads traces; add rules or llm, with weights of "
         "0 if it has no vote"),
    ],
)  # fmt: skip
def test_a_fault_names_key_line_and_remedy(tmp_path: Path, text: str, said: str) -> None:
    assert complaint(tmp_path, f"{text}\n") == f"run.yaml:{said}"


def test_no_password_is_shown_of_a_member_either(tmp_path: Path) -> None:
    said = complaint(
        tmp_path, ENSEMBLE + "  - judge:\n      type: llm\n      model: m\n      base_url: http://k@x/v1\n"
    )
    assert said.startswith("run.yaml:10: key `judge.members.2.judge.base_url`: judge.base_url holds a user name")
    assert "k@x" not in said


def test_a_judge_file_is_a_section_or_a_configuration(tmp_path: Path) -> None:
    guard = "type: guard\nmodel: m\nformat: generic\n"
    assert settings.judge(written(tmp_path, guard)) == JudgeGuard(model="m", format="generic")
    assert settings.judge(written(tmp_path, f"judge: {LLM}\n")) == JudgeLLM(base_url="http://judge:8000/v1", model="m")
    assert settings.judge(written(tmp_path, "seed: 1\n")) == Config().judge
    with pytest.raises(UsageError, match=r"run.yaml:4: key `judge.max_lenth`: .* did you mean `judge.max_length`"):
        settings.judge(written(tmp_path, guard + "max_lenth: 3\n"))


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_examples_of_the_docs_load(tmp_path: Path, text: str) -> None:
    named = re.search(r"^  type: (\w+)", text, re.MULTILINE)
    assert settings.load(written(tmp_path, text)).judge.type == (named[1] if named else "rules")


def test_only_a_guidance_that_says_something_makes_another_run(tmp_path: Path) -> None:
    def told(judge: str, teacher: str) -> dict[str, str]:
        keys = fingerprint(settings.load(written(tmp_path, f"judge: {judge}\nteacher: {teacher}\n")), {}).config
        return {key: value for key, value in keys.items() if key.endswith("guidance")}

    guided = LLM.replace("}", ", guidance: Look hard.}")
    assert told(LLM, "{}") == told(LLM.replace("}", ", guidance: ''}"), "{guidance: ''}") == {}
    assert told(guided, "{guidance: Be brief.}") == {
        "judge.guidance": '"Look hard."',
        "teacher.guidance": '"Be brief."',
    }
    member = f"{{type: ensemble, members: [{{judge: {guided}}}]}}"
    assert told(member, "{}") == {"judge.members.0.judge.guidance": '"Look hard."'}
    again = tmp_path / "again.yaml"
    again.write_bytes(config_yaml(settings.load(written(tmp_path, f"judge: {guided}\n"))))
    assert settings.load(again).judge == settings.load(written(tmp_path, f"judge: {guided}\n")).judge
