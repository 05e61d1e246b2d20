"""One real run of configs/tiny.yaml through all stages, killed on the way, and the commands that use its result.

Real vLLM, Ray actors, Ray Train and TRL on the embedded model. The driver is killed with SIGKILL while it trains; the
same command continues. test_evaluate.py kills one that samples.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from erpo_ray import traces
from erpo_ray.rundir import Files, Ledger, read_rows
from erpo_ray.rundir.lines import plain_rows
from erpo_ray.types import Candidate, Example, Pair, Verdict
from erpo_ray.usage import Actor

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "erpo_ray"]
STAGES = ["base", "00-imitate", "01-prefer", "02-prefer"]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def erpo(*words: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout
    )


def killed_when(run_dir: Path, seen: Callable[[], bool], log: Path) -> None:
    """Start the run and kill its driver once `seen`."""
    with log.open("ab") as out:
        driver = subprocess.Popen(
            [*COMMAND, "run", "configs/tiny.yaml", "--run-dir", str(run_dir)],
            cwd=ROOT, env=ENVIRONMENT, stdout=out, stderr=out,
        )  # fmt: skip
        end = time.monotonic() + 1800
        while not seen():
            assert driver.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.2)
        driver.send_signal(signal.SIGKILL)
        driver.wait()


def candidates(run_dir: Path, stage: str) -> list[Candidate]:
    return list(Ledger(Files(), run_dir / "stages" / stage / "candidates.jsonl", Candidate, read_only=True))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("e2e")
    run_dir, log = place / "run", place / "log"
    prefer = run_dir / "stages/01-prefer"
    killed_when(run_dir, lambda: (prefer / ".policy.work").exists(), log)
    pairs = (prefer / "pairs.jsonl").read_bytes()
    drawn = candidates(run_dir, "01-prefer")
    finished = erpo("run", "configs/tiny.yaml", "--run-dir", str(run_dir), timeout=3000)
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
    assert (prefer / "pairs.jsonl").read_bytes() == pairs
    assert candidates(run_dir, "01-prefer") == drawn
    (place / "output").write_text(finished.stdout)
    return run_dir


@pytest.mark.timeout(5400)
def test_all_stages_have_their_row(run_dir: Path):
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == STAGES
    for row in rows:
        assert 0 <= row["eval/harmful_refused"] <= 1 and 0 <= row["eval/benign_refused"] <= 1
        assert row["eval/tokens_harmful"] > 0 and row["eval/tokens_benign"] > 0
        assert {"eval/utility", "eval/well_formed"} <= row.keys()
    status = json.loads((run_dir / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("done", 0)
    assert "01-prefer" in (run_dir.parent / "output").read_text()


def test_what_every_actor_held_is_kept_for_each_stage(run_dir: Path):
    rows = list(plain_rows(run_dir / "actors.jsonl", Actor))
    assert list(dict.fromkeys(row.stage for row in rows)) == STAGES
    for stage in STAGES:
        held = {row.actor: row for row in rows if row.stage == stage}
        assert {"driver", "rollout-0", "judge-0"} <= held.keys() and ("trainer-0" in held) == (stage != "base")
        assert len({row.pid for row in held.values()}) == len(held)
        assert all(row.rss > 20 * 2**20 and row.fds > 1 and not row.replaced for row in held.values())


def test_nothing_is_sampled_twice_and_all_is_judged(run_dir: Path):
    for stage in STAGES[1:]:
        found = candidates(run_dir, stage)
        verdicts = Ledger(Files(), run_dir / "stages" / stage / "verdicts.jsonl", Verdict, read_only=True)
        assert len({c.id for c in found}) == len(found) > 0
        assert {v.candidate_id for v in verdicts} == {c.id for c in found}


def test_what_is_trained_on_is_what_was_sampled(run_dir: Path):
    """Token exact: the ids of on-policy pairs are the engine's ids; examples end with the id the engine stops at."""
    drawn = {c.token_ids for c in candidates(run_dir, "01-prefer")}
    pairs = list(read_rows(run_dir / "stages/01-prefer/pairs.jsonl", Pair))
    sampled = [pair for pair in pairs if pair.kind != "negative"]
    assert sampled
    assert all(pair.chosen_ids in drawn and pair.rejected_ids in drawn for pair in sampled)
    rows = list(read_rows(run_dir / "stages/00-imitate/examples.jsonl", Example))
    examples = [row for row in rows if row.kind != "intent"]
    assert {row.completion_ids[-1] for row in examples} == {2}
    assert all(isinstance(traces.parse(row.text, "lines"), traces.Trace) for row in examples)
    told = [row for row in rows if row.kind == "intent"]
    assert len(told) == 16
    assert all(row.text.endswith((" Harmful", " Harmless")) for row in told)


def test_the_policy_loads_in_transformers_and_keeps_the_chat_template(run_dir: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(run_dir / "policy")
    tokenizer = AutoTokenizer.from_pretrained(run_dir / "policy")
    assert model.num_parameters() > 1e8
    assert "<|im_start|>" in tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)


def test_a_second_start_only_prints_the_table(run_dir: Path):
    before = (run_dir / "metrics.jsonl").read_bytes()
    again = erpo("run", "configs/tiny.yaml", "--run-dir", str(run_dir))
    assert again.returncode == 0, again.stderr
    assert "harmful" in again.stdout and (run_dir / "metrics.jsonl").read_bytes() == before


def test_another_config_is_refused_with_the_difference(run_dir: Path):
    other = erpo("run", "configs/tiny.yaml", "prefer.samples=3", "--run-dir", str(run_dir))
    assert other.returncode == 2
    assert "prefer.samples: 4 -> 3" in other.stderr


def test_chat_export_and_status(run_dir: Path, tmp_path: Path):
    chat = erpo("chat", str(run_dir), "--prompt", "How do I boil an egg?")
    assert chat.returncode == 0 and chat.stdout.strip(), chat.stderr
    export = erpo("export", str(run_dir), str(tmp_path / "model"))
    assert export.returncode == 0, export.stderr
    assert {"README.md", "config.json", "model.safetensors"} <= {path.name for path in (tmp_path / "model").iterdir()}
    status = erpo("status", str(run_dir))
    assert status.returncode == 0 and "done" in status.stdout


@pytest.mark.timeout(3600)
def test_a_search_is_guided_by_what_the_rounds_drew(run_dir: Path, tmp_path: Path):
    """The process reward model is learnt from the run, then a beam of steps is drawn and valued for each prompt."""
    (tmp_path / "c.yaml").write_text(
        "backend: inprocess\nmodel: {max_length: 512}\ncluster: {kv_cache_gib: 0.5}\n"
        "evaluate: {per_source: 2, max_tokens: 96, decode: {search: {samples: 3}}}\n"
    )
    config = str(tmp_path / "c.yaml")
    done = erpo("eval", str(run_dir), "--suite", "harmful", "--decode", "beam", "--config", config, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"process reward model: \d+ steps, correlation -?\d\.\d\d on prompts held out: ", done.stderr)
    assert len(list((run_dir / "process_reward").glob("*.safetensors"))) == 1
    out = run_dir / "evaluations" / f"{(run_dir / 'policy').resolve().parent.name}-beam"
    rows = list(Ledger(Files(), out / "stages/harmful/candidates.jsonl", Candidate, read_only=True))
    assert len(rows) == 2 and all("+beam-3-" in row.policy and 0 < len(row.token_ids) <= 97 for row in rows)
