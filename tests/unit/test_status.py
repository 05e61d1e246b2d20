"""`erpo status` and `erpo tail` on run directories at work, silent, with failures, and ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from erpo_ray.cli import main
from erpo_ray.commands import status
from erpo_ray.pulse import FILE
from erpo_ray.rundir.lines import ledger_line
from erpo_ray.types import Failure, Verdict, encode


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(
        "cluster: {rollout_workers: 3, judge_workers: 1, train_workers: 1, gone: 2}\n"
    )
    tell(tmp_path, state="running", stage="01-prefer", phase="rollouts", pid=7, host="far")
    return tmp_path


def tell(run: Path, **state: object) -> None:
    (run / "status.json").write_text(json.dumps(state))


def beats(run: Path, done: int, written: float) -> None:
    going = {"name": "01-prefer: rollouts", "done": done, "total": 480, "before": 80, "seconds": 20.0}
    (run / FILE).write_text(json.dumps({"written": written, "phases": [going]}))


def test_status_of_a_run_at_work_tells_rate_time_left_and_workers(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(status.time, "time", lambda: 1005.0)
    beats(run, done=180, written=1000.0)
    assert main(["status", str(run)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "state      running",
        "stage      01-prefer",
        "phase      rollouts",
        "going on   01-prefer: rollouts 180/480, 5.0/s, 1:00 left",
        "workers    3 rollout, 1 judge, 1 train",
    ]
    assert main(["status", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["progress"][0]["rate"], found["progress"][0]["left_s"]) == (5.0, 60.0)
    assert found["workers"] == {"rollout": 3, "judge": 1, "train": 1} and found["sign_of_life"] == 1000.0


@pytest.mark.parametrize(("silence", "told"), [(180.0, False), (181.0, True)])
def test_a_driver_that_gives_no_sign_is_named(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], silence: float, told: bool
) -> None:
    monkeypatch.setattr(status.time, "time", lambda: 1000.0 + silence)
    beats(run, done=180, written=1000.0)
    main(["status", str(run)])
    line = "silent     for more than 3:00; if process 7 on far is gone, start the same command again"
    assert (line in capsys.readouterr().out.splitlines()) == told


def test_failures_of_the_stage_are_counted_with_the_cause_of_the_last(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = run / "stages" / "01-prefer"
    stage.mkdir(parents=True)
    causes = ["timeout", "", "HTTP 500"]
    verdicts = [Verdict(f"c{i}", "judge", failure=Failure(cause) if cause else None) for i, cause in enumerate(causes)]
    (stage / "verdicts.jsonl").write_bytes(
        b"".join(ledger_line(encode(verdict), 1) for verdict in verdicts) + b'{"crc":"'  # still being written
    )
    assert main(["status", str(run)]) == 0
    assert "failures   2 verdicts in this stage, the last: HTTP 500" in capsys.readouterr().out.splitlines()


def test_tail_tells_what_changes_and_returns_the_runs_exit_code(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status.time, "time", lambda: 1001.0)
    beats(run, done=180, written=1000.0)
    waits = 0

    def sleep(seconds: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 2:
            beats(run, done=280, written=1000.0)
        if waits == 3:
            tell(run, state="failed", stage="01-prefer", phase="rollouts", exit_code=100, message="no stage passed")

    assert status.tail(str(run), "", sleep) == 100
    assert capsys.readouterr().out.splitlines() == [
        "state      running",
        "stage      01-prefer",
        "phase      rollouts",
        "going on   01-prefer: rollouts 180/480, 5.0/s, 1:00 left",
        "going on   01-prefer: rollouts 280/480, 10.0/s, 0:20 left",
        "state      failed",
        "exit_code  100",
        "message    no stage passed",
    ]
