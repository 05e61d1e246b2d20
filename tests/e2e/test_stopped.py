"""A real run that is stopped by Ctrl-C as it samples and by SIGTERM as it trains: what it had begun is kept.

vLLM, two ranks of Ray Train and TRL on a random model of three million weights. What vLLM draws depends on its batches,
so that no undisturbed run would draw the same: tests/ray compares the weights of trainings.
"""

from __future__ import annotations

import os
import shlex
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import tiny
from real_runs import Run

from erpo_ray.engines.models import EMBEDDED, materialise
from erpo_ray.rundir.lines import artefact_rows, ledger_rows, plain_rows
from erpo_ray.telemetry import STEPS, Step
from erpo_ray.train.checkpoints import MARKER
from erpo_ray.types import Candidate, Verdict

ALL_STEPS = 80
CONFIG = """
name: stopped
method: sft
model: {{path: {model}, max_length: 320}}
data:
  train: [{{path: seeds, split: train, where: {{category: fraud}}}}]
  evaluate: [{{path: seeds, split: evaluate, where: {{category: fraud}}}}]
imitate:
  harmful: 8
  benign: 12
  draw: {{max_tokens: 64}}
  fit: {{max_steps: {steps}, batch_size: 4, epochs: {steps}}}
gate: {{safety_tolerance: 1.0, refusal_tolerance: 1.0, balance_gain: -1.0}}
evaluate: {{max_tokens: 16, per_source: 4}}
cluster: {{in_flight: 4, kv_cache_gib: 0.25, train_workers: 2}}
"""


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folder for the temporary files of the run, short enough for Ray's sockets. Ctrl-C is not ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="stopped-", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)
    signal.signal(signal.SIGINT, before)


def shared_memory() -> set[str]:
    """Files in /dev/shm that no process holds."""
    held = ""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            held += (process / "maps").read_text()
            held += "".join(f"{fd.readlink()}\n" for fd in (process / "fd").iterdir())
    return {str(path) for path in Path("/dev/shm").iterdir() if str(path) not in held}


@pytest.mark.timeout(3600)
def test_a_run_that_is_stopped_keeps_what_was_in_flight_and_leaves_nothing_behind(
    tmp_path: Path, temporary: Path
) -> None:
    tiny.speaker(tmp_path / "model", materialise(EMBEDDED))
    config, place, log = tmp_path / "config.yaml", tmp_path / "run", tmp_path / "log"
    config.write_text(CONFIG.format(model=tmp_path / "model", steps=ALL_STEPS))
    run, stage, before = Run(config, place, log), place / "stages/00-imitate", shared_memory()
    work = stage / ".policy.work"

    def drawn() -> dict[str, Candidate]:
        path = stage / "candidates.jsonl"
        rows = list(ledger_rows(path, Candidate)) if path.exists() else []
        assert len({row.id for row in rows}) == len(rows)
        return {row.id: row for row in rows}

    def stopped(number: signal.Signals) -> None:
        # A terminal's Ctrl-C reaches workers too.
        for pid in started.processes() if number == signal.SIGINT else (started.driver.pid,):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        assert started.end() == 75, started.said()
        command = shlex.join(["erpo", "run", str(config), "--run-dir", str(place)])
        assert started.said().endswith(f"erpo: interrupted; go on with: {command}\n")

    started = run.start()
    started.until(lambda: len(drawn()) >= 2)
    stopped(signal.SIGINT)
    kept = drawn()
    assert {row.candidate_id for row in ledger_rows(stage / "verdicts.jsonl", Verdict)} == kept.keys()

    started = run.start()
    started.until(lambda: (work / STEPS).exists() and len(list(plain_rows(work / STEPS, Step))) >= 2)
    all_drawn = drawn()
    assert len(kept) < len(all_drawn) and {key: all_drawn[key] for key in kept} == kept
    stopped(signal.SIGTERM)
    [checkpoint] = work.glob("checkpoint-*")
    step = int(checkpoint.name.split("-")[1])
    assert 2 <= step < ALL_STEPS and (checkpoint / MARKER).exists()
    assert [row.step for row in plain_rows(work / STEPS, Step)] == list(range(1, step + 1))

    started = run.start()
    assert started.end() == 0, started.said()
    assert drawn() == all_drawn and not work.exists()
    with (stage / "training.jsonl").open("rb") as stream:
        assert [row.step for row in artefact_rows(stream, Step, stage)] == list(range(1, ALL_STEPS + 1))
    with (stage / "policy_facts.json").open("rb") as stream:
        [facts] = artefact_rows(stream, dict[str, float], stage)
    assert facts["steps"] == ALL_STEPS
    # No process is left, and so no port: `end` waits for all of them.
    assert shared_memory() <= before
    # vLLM leaves a file of two kilobytes at each start, torch a cache; ours is the folder of the cluster.
    assert {path.name.partition("_")[0] for path in temporary.iterdir()} <= {"vllm", "torchinductor"}
