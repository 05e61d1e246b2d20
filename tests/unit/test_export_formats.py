"""`erpo export` for other tools: pairs as TRL reads them, evaluations as Inspect logs."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fakes import Letters
from judged import group, judged, prompt

from erpo_ray import rules
from erpo_ray.cli import main
from erpo_ray.commands import export_inspect, export_trl
from erpo_ray.commands.export_inspect import Judged, Logged, explanation, metadata, scores, summary
from erpo_ray.config import Config, Data, Source
from erpo_ray.engines import renderer
from erpo_ray.evaluate.metrics import evaluation
from erpo_ray.prompts import mixing
from erpo_ray.rundir import RunDir
from erpo_ray.types import Candidate, Evaluation, Pair, Prompt, Verdict, encode, identity

FRAUD = {"category": "fraud"}
CONFIG = Config(
    name="mine",
    data=Data(
        train=(Source(path="seeds", split="train", where=FRAUD, limit=4),),
        evaluate=(Source(path="seeds", split="evaluate", where=FRAUD, limit=6),),
    ),
)
TRACED = "<think>\nwhy\n</think>\nThe answer."
ABOUT = Logged("mine", "run1", "01-prefer", "0.32.0", 192)


class Decoder(Letters):
    """Stands for the renderer of a policy."""

    def __init__(self, model_dir: Path) -> None:
        super().__init__()
        assert model_dir.name == "policy"

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.pieces(ids))


def prompts() -> mixing.Mix:
    return mixing.gather(CONFIG.data, tuple(rules.load("").categories))


def letters(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def pair(prompt_id: str, chosen: str, rejected: str, prefix: str = "") -> Pair:
    ids = letters("p"), letters(prefix), (*letters(chosen), 0), (*letters(rejected), 0)
    return Pair(identity(prompt_id), prompt_id, *ids, 1.0, "safety", "because")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with a judged evaluation in two stages and pairs in one."""
    monkeypatch.setattr(renderer, "Renderer", Decoder)
    mix = prompts()
    path = tmp_path / "run"
    with RunDir.open(path, CONFIG, inputs={"evaluate": identity(*map(encode, mix.evaluate))}) as directory:
        with directory.stage("labels") as s:
            s.once("prompts.jsonl", Prompt, lambda: mix.train)
        for name in ("base", "01-prefer"):
            with directory.stage(name) as s:
                if name == "base":
                    s.once("prompts.jsonl", Prompt, lambda: mix.evaluate)
                candidates = s.ledger("evaluation_candidates.jsonl", Candidate)
                verdicts = s.ledger("evaluation_verdicts.jsonl", Verdict, after=candidates)
                found = [judged(each, 0, TRACED, tokens=len(TRACED)) for each in mix.evaluate]
                for candidate, verdict in found:
                    candidates.append(candidate)
                    verdicts.append(verdict)
                groups = [group(each, row) for each, row in zip(mix.evaluate, found, strict=True)]
                s.value("evaluation.json", Evaluation, lambda groups=groups, name=name: evaluation(name, "v1", groups))
        with directory.stage("01-prefer") as s:
            s.once(
                "pairs.jsonl",
                Pair,
                lambda: [pair(mix.train[0].id, "yes", "no", "so "), pair(mix.train[1].id, "a", "b")],
            )
        (path / "stages" / "01-prefer" / "policy").mkdir()
        directory.point_policy(path / "stages" / "01-prefer" / "policy")
    return path


# TRL


def test_pairs_become_conversations_with_the_shared_prefix_in_both_answers(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["export", str(run), str(out), "--to", "trl"]) == 0
    assert [path.name for path in out.iterdir()] == ["01-prefer.parquet"]
    first, second = pq.read_table(out / "01-prefer.parquet").to_pylist()
    train = prompts().train
    assert first == {
        "prompt": [{"role": "user", "content": train[0].text}],
        "chosen": [{"role": "assistant", "content": "so yes"}],
        "rejected": [{"role": "assistant", "content": "so no"}],
    }
    assert (second["chosen"][0]["content"], second["rejected"][0]["content"]) == ("a", "b")
    assert capsys.readouterr().out.startswith(f"pairs: {out}\nnext: trl dpo --dataset_name {out}")


def test_pairs_are_written_a_group_of_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_trl, "_ROWS", 2)
    told = [pair("p", str(number), "no") for number in range(5)]
    path = tmp_path / "x.parquet"
    export_trl.put(path, export_trl.rows(told, {"p": prompt("p", "benign")}, lambda ids: "".join(map(chr, ids[:-1]))))
    assert pq.ParquetFile(path).num_row_groups == 3
    assert [row["chosen"][0]["content"] for row in pq.read_table(path).to_pylist()] == ["0", "1", "2", "3", "4"]


def test_a_run_without_pairs_leaves_no_folder(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "stages" / "01-prefer" / "pairs.jsonl").unlink()
    assert main(["export", str(run), str(tmp_path / "out"), "--to", "trl"]) == 2
    assert "has no pairs; prefer stages write them: wait for the first, if any" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


# Inspect: what is said of a sample


def items() -> list[Judged]:
    harmful, benign = prompt("h", "harmful"), prompt("b", "benign")
    rows = [
        (harmful, judged(harmful, 0, "No.", tokens=3, utility=-1.0)),
        (benign, judged(benign, 0, "No.", tokens=5, safety=0.5, utility=-0.5, refused=True)),
        (prompt("b2", "benign"), judged(prompt("b2", "benign"), 0, "Yes.", tokens=4, utility=0.5)),
        (prompt("f", "benign"), judged(prompt("f", "benign"), 0, "?", tokens=1, failure="timeout")),
    ]
    return [Judged(asked, candidate, verdict) for asked, (candidate, verdict) in rows]


def test_scores_are_the_axes_of_the_judge_and_a_failure_is_none() -> None:
    assert [scores(item) for item in items()] == [
        {"safety": 1.0, "length": 3.0},
        {"safety": 0.5, "length": 5.0, "utility": -0.5, "over_refusal": 1.0},
        {"safety": 1.0, "length": 4.0, "utility": 0.5, "over_refusal": 0.0},
        {},
    ]


def test_a_summary_is_what_the_project_itself_reports() -> None:
    told = summary(items())
    groups = [group(item.prompt, (item.candidate, item.verdict)) for item in items()]
    own = evaluation("s", "v1", groups)
    assert (told["utility"], told["over_refusal"]) == (own.utility, own.benign_refused)
    assert (told["safety"].value, told["safety"].n, told["length"].value) == (pytest.approx(2.5 / 3), 3, 4.0)


def test_a_judges_words_and_failures_are_told() -> None:
    first, *_, failed = items()
    assert explanation(first.verdict) == "rules: refused, well formed"
    assert explanation(failed.verdict) == "rules failed: timeout"
    assert metadata(failed, ABOUT) | {"failure": "timeout", "failure_raw": "?"} == metadata(failed, ABOUT)
    assert metadata(first, ABOUT) == {
        "stage": "01-prefer",
        "category": "fraud",
        "label": "harmful",
        "source": "seeds",
        "policy": "v1",
        "judge": "rules",
        "vllm": "0.32.0",
        "refused": True,
        "well_formed": True,
    }


def test_without_the_library_nothing_is_begun(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["export", str(run), str(tmp_path / "out"), "--to", "inspect"]) == 2
    assert "--to inspect needs the package inspect-ai; pip install -e '.[inspect]'" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


# Inspect: the library itself, in an environment that has it


def test_each_stage_gives_a_log_that_inspect_reads(run: Path, tmp_path: Path) -> None:
    log: Any = pytest.importorskip("inspect_ai.log")
    out = tmp_path / "out"
    assert main(["export", str(run), str(out), "--to", "inspect"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["01-prefer-evaluation.eval", "base-evaluation.eval"]
    read = log.read_eval_log(str(out / "01-prefer-evaluation.eval"))
    assert (read.status, read.eval.model, read.eval.task) == ("success", "erpo/mine/01-prefer", "evaluation")
    assert {each.name for each in read.results.scores} == {"safety", "utility", "over_refusal", "length"}
    evaluated = {each.id: each for each in prompts().evaluate}
    assert {sample.id for sample in read.samples} == set(evaluated)
    sample = read.samples[0]
    assert sample.input == evaluated[sample.id].text
    assert [part.type for part in sample.output.message.content] == ["reasoning", "text"]
    assert (sample.output.message.content[0].reasoning, sample.output.completion) == ("why", "The answer.")
    assert sample.metadata["stage"] == "01-prefer" and sample.scores["length"].value == len(TRACED)


def test_a_trace_that_did_not_end_has_no_answer(tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai.log")
    asked = prompt("h", "harmful")
    candidate, verdict = judged(asked, 0, "<think>\nopen", tokens=9, finish="length")
    candidate = Candidate(candidate.id, "h", 0, letters("<think>\nopen"), candidate.text, "length", "v1")
    log = export_inspect.eval_log(
        [Judged(asked, candidate, verdict)], ABOUT, Letters(), datetime(2026, 1, 2, tzinfo=UTC)
    )
    (sample,) = log.samples
    assert (sample.output.completion, sample.output.stop_reason) == ("", "max_tokens")
    assert sample.output.usage.reasoning_tokens == len("\nopen")
    assert sample.output.usage.output_tokens == 12
