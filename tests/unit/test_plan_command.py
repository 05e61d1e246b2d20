"""`erpo plan` and `erpo synthesize` as commands: figures that follow from the settings; examples and no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_sweep import FILE, Bench, furnished

from erpo_ray.cli import main
from erpo_ray.commands import plan
from erpo_ray.rundir import read_rows
from erpo_ray.types import Example

RUN = """\
name: small
method: sft
model: {path: MODEL, max_length: 8192}
data:
  train: [{path: seeds, split: train, where: {category: fraud}}]
  evaluate: [{path: seeds, split: evaluate, where: {category: fraud}}, {path: everyday, split: evaluate}]
labeller: {type: given}
imitate: {harmful: 6, benign: 4}
evaluate: {per_source: 5, max_tokens: 100}
"""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = furnished(Bench(tmp_path), monkeypatch)
    monkeypatch.setattr("fakes.Letters.show", lambda self, ids: "".join(map(chr, ids[1:])), raising=False)
    bench.write(RUN)
    return bench


def told(bench: Bench, capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, Any]:
    assert main(["plan", str(bench.folder / "duel.yaml"), *overrides, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_plan_counts_what_the_configuration_asks_for(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(bench, capsys, "imitate.draw.max_tokens=50", "imitate.fit.epochs=2")
    assert (found["method"], found["left_out"], found["backend"]) == ("sft", 0, "ray")
    assert found["workers"] == {"rollout": 1, "judge": 1, "train": 1}
    # 5 prompts of each label and source: of seeds both labels, everyday has benign ones alone.
    assert found["prompts"]["evaluate"] == {"fraud": {"harmful": 5, "benign": 5}, "general": {"benign": 5}}
    phases = {phase["name"]: phase for phase in found["phases"]}
    base, imitate = phases["base: evaluation"], phases["00-imitate"]
    assert (base["completions"], base["sampled_tokens"]) == (15, 1500)
    assert (imitate["completions"], imitate["sampled_tokens"]) == (8, 400)
    assert imitate["rows"] == 20 and list(phases) == ["base: evaluation", "00-imitate", "00-imitate: evaluation"]
    assert bench.booted == [] and not Path("runs").exists()


def test_a_plan_follows_its_overrides(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    less, more = (told(bench, capsys, f"evaluate.per_source={n}") for n in (2, 4))
    tokens = [
        next(p["sampled_tokens"] for p in each["phases"] if p["name"] == "base: evaluation") for each in (less, more)
    ]
    assert tokens == [600, 1200] and less["seconds"] < more["seconds"]


def test_no_time_is_told_where_none_was_measured(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(bench, capsys, "cluster.gpu=true")
    assert found["seconds"] is None and {phase["seconds"] for phase in found["phases"]} == {None}
    lines = plan.text(found).splitlines()
    assert [line.split() for line in lines if line.startswith("total ")][-1] == ["total", "not", "measured"]


def test_the_text_adds_up(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(bench, capsys)
    lines = [line.split() for line in plan.text(found).splitlines()]
    train = found["prompts"]["train"]["fraud"]
    head = ["prompts", "train", "harmful", "train", "benign", "evaluate", "harmful", "evaluate", "benign"]
    at = lines.index(head)
    assert lines[at + 1] == ["fraud", str(train["harmful"]), str(train["benign"]), "5", "5"]
    assert lines[at + 2] == ["general", "0", "0", "0", "5"]
    assert lines[at + 3] == ["total", str(train["harmful"]), str(train["benign"]), "5", "10"]


def test_synthesize_writes_examples_trains_nothing_and_run_goes_on_from_there(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(bench.folder / "duel.yaml")
    assert main(["synthesize", file, "--run-dir", "out"]) == 0
    shown = capsys.readouterr().out
    path = Path("out/stages/00-imitate/examples.jsonl")
    assert f"examples: {path.resolve()}\nnext: erpo run with the same arguments trains on them, in out\n" in shown
    made = path.read_bytes()
    assert len(list(read_rows(path, Example))) == 10
    ((_, first),) = bench.booted
    assert first.trained == [] and not Path("out/stages/00-imitate/policy").exists()
    assert main(["run", file, "--run-dir", "out"]) == 0
    second = bench.booted[1][1]
    assert second.trained == ["00-imitate"] and not set(first.sampled) & set(second.sampled)
    assert path.read_bytes() == made


def test_synthesize_refuses_a_method_without_examples(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.write(RUN.replace("method: sft", "method: dpo"))
    assert main(["synthesize", str(bench.folder / "duel.yaml"), "--run-dir", "out"]) == 2
    assert "learns from no examples; use a method that begins with them" in capsys.readouterr().err
    assert bench.booted == [] and not Path("out").exists()


def test_a_sweep_is_planned_by_rows(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.write(FILE)
    assert list(told(bench, capsys)["rows"]) == ["base", "sft", "erpo", "rose", "erpo-scans"]
