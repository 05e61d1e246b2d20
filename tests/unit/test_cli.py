"""The command line: what it lists, prints and returns, and what stands behind it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from erpo_ray import endings, environment, estimate
from erpo_ray.cli import main
from erpo_ray.commands import chat
from erpo_ray.commands.guarded import guarded
from erpo_ray.config import Config
from erpo_ray.errors import EnvironmentFault, GateFailed, Interrupted, RunFailed, UsageError
from erpo_ray.progress import Progress
from erpo_ray.terminal import clean

ROOT = Path(__file__).parents[2]
ROW = {"stage": "base", "eval/harmful_refused": 0.06, "eval/utility": -0.25, "eval/tokens_benign": 80.4}


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    listed = [line.split()[0] for line in shown.partition("Commands:")[2].splitlines() if line.startswith("  ")]
    names = (
        "run synthesize plan chat serve export eval compare sweep judge-check tune "
        "report submit status tail doctor config"
    )
    assert listed == names.split()


def test_the_package_runs_as_a_module() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "erpo_ray", "run", "missing.yaml"], cwd=ROOT, capture_output=True, text=True
    )
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == "erpo: missing.yaml: no such file; check the path\n"


@pytest.mark.parametrize(
    ("error", "code", "state"),
    [
        (UsageError("u"), 2, "failed"),
        (EnvironmentFault("e"), 3, "failed"),
        (RunFailed("r"), 1, "failed"),
        (GateFailed("g"), 100, "failed"),
        (Interrupted("i"), 75, "interrupted"),
        (KeyboardInterrupt(), 75, "interrupted"),
        (ValueError("v"), 1, "failed"),
    ],
)
def test_every_ending_has_its_exit_code_and_state(
    error: BaseException, code: int, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[tuple[str, int, str]] = []

    def work() -> int:
        with endings.recorded(lambda state, *, exit_code, message: told.append((state, exit_code, message))):
            raise error

    assert guarded(work) == code
    shown = capsys.readouterr().err
    assert ("Traceback" in shown) == isinstance(error, ValueError)
    assert [(was, number) for was, number, _ in told] == [(state, code)]
    assert shown.endswith(f"erpo: {told[0][2]}\n")


def test_a_good_ending_is_told_too() -> None:
    told: list[object] = []
    with endings.recorded(lambda state, *, exit_code, message: told.append((state, exit_code, message))):
        pass
    assert told == [("done", 0, "")]


def test_sigterm_ends_like_ctrl_c_and_the_old_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def work() -> int:
        with endings.terminable():
            os.kill(os.getpid(), signal.SIGTERM)
        return 0

    assert guarded(work) == 75
    assert signal.getsignal(signal.SIGTERM) == before


def test_messages_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise UsageError("a\x1b[2Jb\u202ec\rd")

    assert guarded(work) == 2
    assert capsys.readouterr().err == "erpo: a[2Jbcd\n"


def test_clean_keeps_text_newlines_and_tabs() -> None:
    assert clean("caf\u00e9 \u4f60\U0001f600\n\tx\x00\x07\x9b\u2066\u200f\ud800") == "caf\u00e9 \u4f60\U0001f600\n\tx"


@pytest.mark.parametrize(
    ("listed", "native"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16 avx512vl\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", True),
        ("processor\t: 0\nflags\t\t: fpu fma avx avx2\nbugs\t: avx512_bf16\n", False),
        ("", False),
    ],
)
def test_bfloat16_where_the_processor_has_it(
    listed: str, native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(listed)
    monkeypatch.setattr(environment, "_CPU_INFO", tmp_path / "cpuinfo")
    environment._cpu_flags.cache_clear()
    assert environment.bf16(gpu=False) is native
    environment._cpu_flags.cache_clear()
    assert environment.bf16(gpu=True)


def test_telemetry_is_off_but_a_users_choice_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*environment.QUIET, *environment.ON_CPU):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    environment.apply()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert (
        os.environ["VLLM_NO_USAGE_STATS"] == os.environ["HF_HUB_DISABLE_TELEMETRY"] == os.environ["DO_NOT_TRACK"] == "1"
    )
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


# Commands that read


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    model = folder / "stages" / "00-imitate" / "policy"
    model.mkdir(parents=True)
    (model / "config.json").write_text('{"vocab_size": 10}')
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "generation_config.json").write_text('{"temperature": 0.7, "eos_token_id": 2}')
    (folder / "policy").symlink_to("stages/00-imitate/policy")
    (folder / "config.yaml").write_text("name: demo\nevaluate: {max_tokens: 99}\n")
    (folder / "metrics.jsonl").write_text(json.dumps(ROW) + "\n")
    (folder / "status.json").write_text(
        '{"state": "running", "stage": "01-prefer", "phase": "training", "message": ""}'
    )
    return folder


def test_config_show_tells_value_and_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("prefer:\n  samples: 8\n")
    assert main(["config", "show", str(path), "seed=4"]) == 0
    shown = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert shown["prefer.samples"].split() == ["8", "#", f"{path}:2"]
    assert shown["seed"].split() == ["4", "#", "command", "line"]
    assert shown["gate.safety_tolerance"].split()[1:] == ["#", "default"]


def test_config_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Config"


def test_status_shows_state_and_measures(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(run_dir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["state      running", "stage      01-prefer", "phase      training"]
    assert lines[-1].split() == ["base", "6.0%", "-", "-0.25", "-", "80", "-"]
    assert main(["status", str(run_dir), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == [ROW]


def test_export_copies_the_policy_with_card_and_the_sampling_of_the_evaluation(run_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["export", str(run_dir), str(out)]) == 0
    assert not out.is_symlink() and (out / "model.safetensors").read_bytes() == b"weights"
    sampling = json.loads((out / "generation_config.json").read_text())
    assert sampling == {"eos_token_id": 2, "do_sample": False, "max_new_tokens": 99}
    card = (out / "README.md").read_text()
    assert card.startswith("---\nbase_model: HuggingFaceTB/SmolLM2-135M-Instruct\n") and "license: apache-2.0" in card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_export_never_overwrites(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    assert main(["export", str(run_dir), str(tmp_path / "out")]) == 2
    assert "exists already; name a new folder" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_chat_sets_the_trace_apart_from_the_answer() -> None:
    assert chat.shown("<think>\nwhy\x1b[2J\n</think>\nanswer", colour=False) == "  | why[2J\nanswer"
    assert chat.shown("plain", colour=True) == "plain"
    assert chat.shown("<think>\nopen", colour=False).endswith("(no answer: the trace did not end)")
    assert chat.shown("<think>\nwhy\n</think>\n", colour=False) == "  | why\n(no answer)"


# Estimates


def test_costs_follow_counts_and_settings() -> None:
    config = Config.model_validate(
        {
            "imitate": {"harmful": 10, "answers": 2, "draw": {"max_tokens": 50}, "fit": {"epochs": 2}},
            "prefer": {"prompts": 8, "samples": 4, "draw": {"max_tokens": 100}, "max_pairs": 6, "negatives": 3},
        }
    )
    shape = estimate.Shape(135_000_000, 50_000)
    stages: Any = [("00-imitate", "imitate"), ("01-prefer", "prefer"), ("02-prefer", "prefer")]
    found = estimate.costs(config, stages, harmful=40, benign=30, evaluated=20, prompt_tokens=25, shape=shape, cores=2)
    assert [(cost.name, cost.completions, cost.rows) for cost in found] == [
        ("base: evaluation", 20, 0),
        ("00-imitate", 60, 80),
        ("00-imitate: evaluation", 20, 0),
        ("01-prefer", 32, 9),
        ("01-prefer: evaluation", 20, 0),
        ("02-prefer", 32, 6),
        ("02-prefer: evaluation", 20, 0),
    ]
    assert found[1].sampled_tokens == 60 * 50
    twice = estimate.costs(config, stages, 40, 30, 20, 25, estimate.Shape(270_000_000, 50_000), 2)
    assert twice[2].seconds == pytest.approx(2 * found[2].seconds, abs=0.2)
    slow = replace(estimate.BF16, sampled=estimate.BF16.sampled / 6)
    assert estimate.costs(config, stages, 40, 30, 20, 25, shape, 2, slow)[2].seconds == pytest.approx(
        6 * found[2].seconds, abs=0.6
    )


def test_costs_of_derta_count_harmful_answers_and_the_turns_within_them() -> None:
    imitate = {"harmful": 10, "benign": 6, "answers": 2, "draw": {"max_tokens": 50}, "fit": {"epochs": 1}}
    config = Config.model_validate({"method": "derta", "derta": {"positions": 0.1}, "imitate": imitate})
    stages: Any = [("00-imitate", "imitate")]
    _, found, _ = estimate.costs(config, stages, 40, 30, 20, 25, estimate.Shape(135_000_000, 50_000), 2)
    assert (found.completions, found.rows) == ((10 + 6) * 2, 10 + 6 + 10 * 5)
    assert found.trained_tokens == 16 * (25 + 100) + 50 * (25 + 50)


def test_a_prefer_stage_without_imitation_before_it_counts_no_negatives() -> None:
    config = Config.model_validate({"prefer": {"prompts": 8, "samples": 4, "max_pairs": 6, "negatives": 3}})
    stages: Any = [("00-prefer", "prefer"), ("01-prefer", "prefer")]
    found = estimate.costs(config, stages, 40, 30, 20, 25, estimate.Shape(135_000_000, 50_000), 2)
    assert [cost.rows for cost in found if cost.kind == "prefer"] == [6, 6]
    weighed = config.model_copy(update={"prefer": config.prefer.model_copy(update={"section_weights": True})})
    found = estimate.costs(weighed, stages, 40, 30, 20, 25, estimate.Shape(135_000_000, 50_000), 2)
    assert [cost.rows for cost in found if cost.kind == "prefer"] == [12, 12]


def test_a_models_size_is_read_from_its_files(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {}, "a": {"shape": [3, 4]}, "b": {"shape": [5]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (tmp_path / "config.json").write_text('{"vocab_size": 7}')
    assert estimate.shape(tmp_path) == estimate.Shape(17, 7)


# Progress


def test_without_a_terminal_progress_is_a_line_now_and_then() -> None:
    stream, now = io.StringIO(), [0.0]
    progress = Progress(stream, interval=30, clock=lambda: now[0])
    with progress.phase("roll\x1bouts", 100) as tick:
        tick(0)
        for _ in range(100):
            now[0] += 1
            tick(1)
    assert stream.getvalue().splitlines() == [
        "rollouts: 0/100",
        "rollouts: 30/100, 1.0/s, 1:10 left",
        "rollouts: 60/100, 1.0/s, 0:40 left",
        "rollouts: 90/100, 1.0/s, 0:10 left",
        "rollouts: 100/100 in 1:40, 1.0/s",
    ]


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_progress_is_a_bar() -> None:
    screen = Screen()
    with Progress(screen).phase("[red]judging", 4) as tick:
        tick(4)
    assert "[red]judging" in screen.getvalue() and "4/4" in screen.getvalue() and "/s" in screen.getvalue()


def test_on_a_terminal_phases_side_by_side_are_drawn_together() -> None:
    screen = Screen()
    progress = Progress(screen)
    progress.steps(1, 3, {})
    with progress.phase("rollouts", 8) as tick:
        tick(8)
    progress.steps(3, 3, {})
    last = screen.getvalue().rpartition("training")[2]
    assert "3/3" in last and "rollouts" in last and "8/8" in last
    with progress.phase("evaluation", 1) as tick:
        tick(1)
    assert "training" not in screen.getvalue().rpartition("3/3")[2].partition("evaluation")[2]


def test_training_steps_open_and_close_their_own_phase() -> None:
    stream, now = io.StringIO(), [0.0]
    progress = Progress(stream, clock=lambda: now[0])
    for step in (1, 2, 3):
        now[0] += 5
        progress.steps(step, 3, {"loss": 0.5})
    lines = stream.getvalue().splitlines()
    assert (lines[0], lines[-1]) == ("training: 0/3", "training: 3/3 in 0:10, 0.2/s")


def test_what_an_earlier_start_did_counts_for_no_rate() -> None:
    stream, now = io.StringIO(), [0.0]
    with Progress(stream, interval=30, clock=lambda: now[0]).phase("rollouts", 1000) as tick:
        tick(900)
        for _ in range(30):
            now[0] += 1
            tick(1)
    assert stream.getvalue().splitlines()[1:] == [
        "rollouts: 930/1000, 1.0/s, 1:10 left",
        "rollouts: 930/1000 in 0:30, 1.0/s",
    ]
