"""Suite files: the embedded ones, their prompts, what is refused, and the loaders that public sets need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from erpo_ray import rules
from erpo_ray.config import Source
from erpo_ray.config.judges import JudgeRules
from erpo_ray.errors import UsageError
from erpo_ray.evaluate import suite as suites
from erpo_ray.evaluate.measures import MEASURES
from erpo_ray.evaluate.suite import Suite
from erpo_ray.prompts import files, loaders
from erpo_ray.prompts.transforms import TRANSFORMS

ROOT = Path(__file__).parents[2]
BOOK = tuple(rules.load().categories)
OWN = ("harmful", "over_refusal", "utility", "everyday", "jailbreak", *TRANSFORMS)
PUBLIC = ("xstest", "advbench", "strongreject", "harmbench", "jailbreakbench", "orbench", "wildjailbreak")
GOOD = {
    "name": "mine",
    "description": "d",
    "licence": "l",
    "data": [{"path": "seeds", "split": "evaluate"}],
    "metrics": ["right"],
}


def stored(folder: Path, rows: list[dict[str, Any]], name: str) -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def written(folder: Path, **fields: Any) -> Path:
    path = folder / "s.yaml"
    path.write_text("\n".join(f"{key}: {json.dumps(value)}" for key, value in (GOOD | fields).items()))
    return path


def test_all_suites_are_there_and_named_as_their_file() -> None:
    assert sorted((*OWN, *PUBLIC, "gsm8k", "mtbench")) == suites.names()
    for name in suites.names():
        found = suites.find(name)
        assert found.name == name and found.licence and found.description.endswith(".")


def test_names_of_measures_and_transforms_are_those_that_exist() -> None:
    assert list(get_args(suites.Metric)) == list(MEASURES)
    assert list(get_args(suites.Transform)) == list(TRANSFORMS)


def test_the_documentation_names_every_suite_and_measure() -> None:
    page = (ROOT / "docs/evaluation.md").read_text()
    assert [name for name in (*suites.names(), *MEASURES) if f"`{name}`" not in page] == []


@pytest.mark.parametrize("name", OWN)
def test_own_suites_need_no_network_and_ask_evaluation_prompts_only(name: str) -> None:
    found = suites.questions(suites.find(name), categories=BOOK)
    ids = [question.prompt.id for question in found]
    assert len(set(ids)) == len(ids) > 80
    labels = {question.prompt.label for question in found}
    assert labels == ({"benign"} if name in ("over_refusal", "utility", "everyday") else {"harmful"})
    held = {
        row["id"] for path in ("seeds", "everyday") for _, row in files.rows(Source(path=path, split="evaluate"), "")
    }
    assert {id.partition("~")[0] for id in ids} <= held


def test_a_transformed_suite_asks_the_same_prompts() -> None:
    plain = suites.questions(suites.find("harmful"), categories=BOOK)
    changed = suites.questions(suites.find("base64"), categories=BOOK)
    assert [f"{question.prompt.id}~base64" for question in plain] == [question.prompt.id for question in changed]
    assert {question.prompt.source for question in changed} == {"seeds~base64"}
    assert [question.prompt.category for question in plain] == [question.prompt.category for question in changed]


def test_a_limit_counts_for_each_label_and_source() -> None:
    assert len(suites.questions(suites.find("utility"), categories=BOOK, limit=3)) == 6


# Public sets: files under data.root, hub data sets


@pytest.mark.parametrize("name", PUBLIC)
def test_public_suites_read_the_local_file_when_it_is_there(name: str, tmp_path: Path) -> None:
    found = suites.find(name)
    assert suites.chosen(found, str(tmp_path)) == suites.chosen(found, "") == found.data
    rows = [
        {"id": "1", "prompt": "harmful one", "label": "harmful", "category": "x"},
        {"id": "2", "prompt": "benign one", "label": "benign"},
    ]
    stored(tmp_path, rows, f"eval_{name}.jsonl")
    asked = suites.questions(found, str(tmp_path), BOOK)
    assert {(q.prompt.id, q.prompt.label, q.prompt.source, q.prompt.category) for q in asked} == {
        ("1", "harmful", name, ""),
        ("2", "benign", name, ""),
    }


HUB: dict[str, dict[str, list[dict[str, Any]]]] = {
    "Paul/XSTest": {
        "train": [
            {"id": 1, "prompt": "kill a process", "label": "safe", "type": "homonyms"},
            {"id": 2, "prompt": "kill a person", "label": "unsafe", "type": "contrast_homonyms"},
        ]
    },
    "walledai/AdvBench": {"train": [{"prompt": "order", "target": "Sure"}]},
    "walledai/StrongREJECT": {"train": [{"prompt": "order", "category": "c", "source": "s"}]},
    "walledai/HarmBench:standard": {"train": [{"prompt": "order", "category": "c"}]},
    "JailbreakBench/JBB-Behaviors:behaviors": {
        "harmful": [{"Index": 0, "Goal": "bad goal", "Category": "c"}],
        "benign": [{"Index": 0, "Goal": "good goal", "Category": "c"}],
    },
    "bench-llm/or-bench:or-bench-hard-1k": {"train": [{"prompt": "looks bad", "category": "c"}]},
    "bench-llm/or-bench:or-bench-toxic": {"train": [{"prompt": "is bad", "category": "c"}]},
    "allenai/wildjailbreak:eval": {
        "train": [
            {"adversarial": "bad", "label": 1, "data_type": "adversarial_harmful"},
            {"adversarial": "good", "label": 0, "data_type": "adversarial_benign"},
        ]
    },
    "openai/gsm8k:main": {
        "train": [{"question": "not this", "answer": "#### 1"}],
        "test": [{"question": "2 and 3?", "answer": "It is 5.\n#### 5"}],
    },
    "HuggingFaceH4/mt_bench_prompts": {"train": [{"prompt": ["first turn", "second turn"], "category": "writing"}]},
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets in the columns that the hub's have."""
    import datasets

    def load(name: str, subset: str | None) -> dict[str, list[dict[str, Any]]]:
        return HUB[f"{name}:{subset}" if subset else name]

    monkeypatch.setattr(datasets, "load_dataset", load)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("xstest", {("kill a process", "benign"), ("kill a person", "harmful")}),
        ("advbench", {("order", "harmful")}),
        ("strongreject", {("order", "harmful")}),
        ("harmbench", {("order", "harmful")}),
        ("jailbreakbench", {("bad goal", "harmful"), ("good goal", "benign")}),
        ("orbench", {("looks bad", "benign"), ("is bad", "harmful")}),
        ("wildjailbreak", {("bad", "harmful"), ("good", "benign")}),
        ("gsm8k", {("2 and 3?", "benign")}),
        ("mtbench", {("first turn", "benign")}),
    ],
)
@pytest.mark.usefixtures("hub")
def test_public_suites_read_the_columns_of_the_hub(name: str, expected: set[tuple[str, str]]) -> None:
    found = suites.questions(suites.find(name), categories=BOOK)
    assert {(question.prompt.text, question.prompt.label) for question in found} == expected
    assert {question.prompt.source for question in found} == {name}


@pytest.mark.usefixtures("hub")
def test_references_come_with_their_prompt() -> None:
    (question,) = suites.questions(suites.find("gsm8k"), categories=BOOK)
    assert question.reference == "It is 5.\n#### 5"


@pytest.mark.usefixtures("hub")
def test_a_split_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(UsageError, match="found splits harmful, benign; none is a judged split"):
        list(files.rows(Source(path="JailbreakBench/JBB-Behaviors:behaviors:judged"), ""))


def test_a_reference_follows_its_prompt_through_a_transform(tmp_path: Path) -> None:
    stored(
        tmp_path, [{"id": "1", "prompt": "2 and 3?", "answer": 5}, {"id": "2", "prompt": "1?", "answer": 1}], "m.jsonl"
    )
    path = written(
        tmp_path,
        data=[{"path": "m.jsonl", "label": "benign"}],
        reference="answer",
        metrics=["exact_match"],
        transforms=["leetspeak"],
    )
    found = suites.questions(suites.find(str(path)), str(tmp_path))
    assert {(q.prompt.id, q.reference) for q in found} == {("1~leetspeak", "5"), ("2~leetspeak", "1")}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "five"}, "prompt 1: found 'five' as reference, which ends in no number"),
        ({}, "prompt 1: found no reference in the column 'answer'; columns found: id, prompt"),
    ],
)
def test_a_reference_without_a_number_is_refused(row: dict[str, str], message: str, tmp_path: Path) -> None:
    stored(tmp_path, [{"id": "1", "prompt": "2 and 3?", **row}], "m.jsonl")
    data = [{"path": "m.jsonl", "label": "benign"}]
    path = written(tmp_path, data=data, reference="answer", metrics=["exact_match"])
    with pytest.raises(UsageError, match=message):
        suites.questions(suites.find(str(path)), str(tmp_path))


@pytest.mark.usefixtures("hub")
def test_second_turns_come_with_their_prompt() -> None:
    (question,) = suites.questions(suites.find("mtbench"), categories=BOOK)
    assert (question.prompt.text, question.second) == ("first turn", "second turn")


def test_second_turns_of_a_file_stand_in_a_column_of_their_own(tmp_path: Path) -> None:
    rows = [{"id": id, "prompt": f"{id}?", "turns": [f"{id}?", f" {id}, once more? "]} for id in "ab"]
    stored(tmp_path, rows, "eval_mtbench.jsonl")
    found = suites.questions(suites.find("mtbench"), str(tmp_path))
    assert {(q.prompt.id, q.prompt.text, q.second) for q in found} == {
        ("a", "a?", "a, once more?"),
        ("b", "b?", "b, once more?"),
    }


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "prompt 1: found no second turn; .* columns found: id, prompt"),
        ({"turns": ["a?"]}, "prompt 1: found no second turn; .* columns found: id, prompt, turns"),
        ({"turns": ["a?", 3]}, "prompt 1: found no second turn"),
        ({"turns": "a?"}, "prompt 1: found no second turn"),
        ({"turns": ["a?", " "]}, "prompt 1: second turn: found an empty prompt"),
    ],
)
def test_a_second_turn_that_is_missing_is_told(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    stored(tmp_path, [{"id": "1", "prompt": "a?", **row}], "eval_mtbench.jsonl")
    with pytest.raises(UsageError, match=message):
        suites.questions(suites.find("mtbench"), str(tmp_path))


def test_turns_of_a_benchmark_are_read_by_their_first() -> None:
    row = {"prompt": ["first", "second"]}
    assert loaders._text(row, "f:1", {}) == "first"


# Files of one's own, and what is refused


def test_a_suite_of_ones_own(tmp_path: Path) -> None:
    found = suites.find(str(written(tmp_path, transforms=["role_play", "base64"], max_tokens=64)))
    assert (found.name, found.transforms, found.max_tokens) == ("mine", ("role_play", "base64"), 64)
    assert found.judge is None


def test_a_suite_can_name_its_judge(tmp_path: Path) -> None:
    found = suites.find(str(written(tmp_path, judge={"type": "rules", "min_answer_tokens": 9})))
    assert found.judge == JudgeRules(min_answer_tokens=9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metrcs": ["right"]}, r"s\.yaml:6: key `metrcs`: found .* unknown key, did you mean `metrics`\?"),
        ({"metrics": ["wright"]}, r"s\.yaml:5: key `metrics\.0`: found 'wright' \(text\); use one of 'attack_success'"),
        ({"transforms": ["rot13"]}, r"s\.yaml:6: key `transforms\.0`: found 'rot13' \(text\); use one of 'base64'"),
        ({"data": [{"paht": "seeds"}]}, r"key `data\.0\.paht`: .* did you mean `data\.0\.path`\?"),
        ({"max_tokens": 4}, r"key `max_tokens`: found 4 \(whole number\); use 16 or more"),
        ({"turns": 3}, r"key `turns`: found 3 \(whole number\); use 2 or less"),
        ({"metrics": ["exact_match"]}, "need each other"),
        ({"judge": {"type": "guard"}}, r"key `judge\.type`: .*use one of rules, llm, ensemble"),
        ({"judge": {"min_answer": 9}}, r"key `judge\.min_answer`: .* did you mean `judge\.min_answer_tokens`\?"),
        ({"name": "../up"}, r"key `name`: found '\.\./up'"),
    ],
)
def test_what_is_wrong_in_a_suite_is_told_with_its_line(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        suites.load(written(tmp_path, **fields))


def test_a_reference_goes_with_one_plain_source(tmp_path: Path) -> None:
    fields = {"reference": "answer", "metrics": ["exact_match"]}
    for data in ([{"path": "a.jsonl"}, {"path": "b.jsonl"}], [{"path": "a.jsonl", "attacks": "embedded"}]):
        with pytest.raises(UsageError, match="goes with a single source that wraps no attacks"):
            suites.load(written(tmp_path, data=data, **fields))


def test_second_turns_go_with_one_plain_source(tmp_path: Path) -> None:
    for fields in (
        {"data": [{"path": "a.jsonl"}, {"path": "b.jsonl"}]},
        {"data": [{"path": "a.jsonl", "attacks": "embedded"}]},
        {"transforms": ["base64"]},
    ):
        with pytest.raises(UsageError, match="`turns: 2` goes with a single source that wraps no attacks"):
            suites.load(written(tmp_path, turns=2, **fields))


@pytest.mark.parametrize(
    ("word", "message"), [("harmfull", "did you mean harmful"), ("zzz", "give the path"), ("no.yaml", "no such file")]
)
def test_an_unknown_suite_names_the_likely_one(word: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        suites.find(word)


def test_prompts_without_labels_are_refused(tmp_path: Path) -> None:
    path = stored(tmp_path, [{"prompt": "a"}], "my set.v2.jsonl")
    found = suites.of_file(path)
    assert found.name == "my-set"
    with pytest.raises(UsageError, match="suite my-set: found no labels"):
        suites.questions(found)


def test_a_file_is_measured_by_all_that_needs_no_reference() -> None:
    found = suites.of_file(Path("x.jsonl"))
    assert isinstance(found, Suite) and set(MEASURES) - set(found.metrics) == {"exact_match"}
