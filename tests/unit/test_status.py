"""`erpo status` and `erpo tail` on run directories at work, silent, with failures, and ended."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from erpo_ray.cli import main
from erpo_ray.commands import status
from erpo_ray.pulse import FILE
from erpo_ray.rundir.lease import LOCK, held
from erpo_ray.rundir.lines import artefact, ledger_line
from erpo_ray.telemetry import STEPS, Step
from erpo_ray.types import Failure, Verdict, encode

WANTED = {"rollout": 3, "judge": 1, "train": 1}


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
    assert found["workers"] == {role: {"up": None, "of": of} for role, of in WANTED.items()}
    assert found["sign_of_life"] == 1000.0 and found["driver"] == "unknown"


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


def full_beat(run: Path) -> None:
    phase = {"name": "training", "done": 12, "total": 60, "before": 2, "seconds": 20.0}
    workers = {"rollout": {"up": 2, "of": 3}, "judge": {"up": 1, "of": 1}, "train": {"up": 1, "of": 1}}
    trouble = {"at": 0.0, "text": "rollout worker 1 was lost, 4 samples are drawn again: it died"}
    told = {"written": 1000.0, "phases": [phase], "workers": workers, "troubles": [trouble]}
    (run / FILE).write_text(json.dumps(told))


def test_status_tells_living_workers_losses_troubles_and_finished_stages(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(status.time, "time", lambda: 1005.0)
    monkeypatch.setattr(status.time, "localtime", status.time.gmtime)
    full_beat(run)
    for number, name in enumerate(("base", "00-imitate")):
        (run / "stages" / name).mkdir(parents=True)
        (run / "stages" / name / "stage.json").write_text("{}")
        os.utime(run / "stages" / name / "stage.json", (number, number))
    (run / "metrics.jsonl").write_text(
        '{"stage": "base", "accepted": true}\n{"stage": "00-imitate", "accepted": false}\n'
    )
    work = run / "stages" / "01-prefer" / ".policy.work"
    work.mkdir(parents=True)
    steps = [Step(11, 0.5), Step(12, 0.43215, margin=0.82, accuracy=0.75)]
    (work / STEPS).write_bytes(b"".join(encode(step) + b"\n" for step in steps))
    assert main(["status", str(run)]) == 0
    assert capsys.readouterr().out.splitlines()[3:8] == [
        "done       base, 00-imitate (rejected)",
        "going on   training 12/60, 0.5/s, 1:36 left",
        "learning   step 12 of 60: loss 0.4321, reward margin +0.820, accuracy 75%",
        "workers    2 of 3 rollout, 1 of 1 judge, 1 of 1 train",
        "trouble    00:00:00 rollout worker 1 was lost, 4 samples are drawn again: it died",
    ]
    main(["status", str(run), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["learning"]["step"], found["learning"]["of"], found["learning"]["margin"]) == (12, 60, 0.82)
    assert found["workers"]["rollout"] == {"up": 2, "of": 3} and len(found["troubles"]) == 1
    assert found["done"] == [{"stage": "base", "rejected": False}, {"stage": "00-imitate", "rejected": True}]
    (work.parent / "training.jsonl").write_bytes(artefact([encode(step) for step in steps]))
    main(["status", str(run)])
    assert "learnt     step 12: loss 0.4321, reward margin +0.820, accuracy 75%" in capsys.readouterr().out


HOLDER = """
import sys
from pathlib import Path
from erpo_ray.rundir import Files
assert Files().lock(Path(sys.argv[1])) is not None
print("held", flush=True)
sys.stdin.read()
"""


def test_whether_a_driver_holds_the_run_is_told_by_its_lock(tmp_path: Path) -> None:
    assert held(tmp_path) is None
    (tmp_path / LOCK).touch()
    assert held(tmp_path) is False
    words = [sys.executable, "-c", HOLDER, str(tmp_path / LOCK)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"held\n"
        assert held(tmp_path) is True
        child.kill()
    assert held(tmp_path) is False


@pytest.mark.parametrize(
    ("host", "written", "gone"), [("here", 1000.0, True), ("far", 1000.0, False), ("far", 800.0, True)]
)
def test_a_driver_that_ended_without_a_word_is_told_apart_from_a_silent_one(
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    host: str,
    written: float,
    gone: bool,
) -> None:
    monkeypatch.setattr(status.time, "time", lambda: 1001.0)
    tell(run, state="running", stage="base", pid=7, host=socket.gethostname() if host == "here" else host)
    (run / LOCK).touch()
    beats(run, done=180, written=written)
    main(["status", str(run)])
    lines = [line.partition(" ")[0] for line in capsys.readouterr().out.splitlines()]
    assert ("gone" in lines, "going" in lines) == (gone, not gone)
    main(["status", str(run), "--json"])
    assert json.loads(capsys.readouterr().out)["driver"] == ("gone" if gone else "unknown")


def test_tail_follows_the_next_start_and_gives_up_without_one(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(status.time, "time", lambda: 1001.0)
    tell(run, state="running", stage="base", pid=7, host=socket.gethostname())
    (run / LOCK).touch()
    waits = 0

    def sleep(seconds: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 20:
            (run / LOCK).unlink()
            tell(run, state="running", stage="01-prefer", pid=8, host=socket.gethostname())
        if waits == 40:
            tell(run, state="done", stage="01-prefer", exit_code=0)

    assert status.tail(str(run), "", sleep) == 0 and waits == 40
    told = capsys.readouterr().out.splitlines()
    assert told[2].startswith("gone       process 7 on ") and told[-1] == "exit_code  0"
    tell(run, state="running", stage="base", pid=7, host=socket.gethostname())
    (run / LOCK).touch()
    assert status.tail(str(run), "", lambda seconds: None) == 75


def test_status_and_tail_take_what_is_driven_and_say_what_it_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "rows").mkdir()
    tell(run, state="done", exit_code=0)
    assert main(["tail", str(run)]) == main(["status", str(run)]) == 0
    assert f"is a sweep; its rows are runs, each in {run}/rows/NAME" in capsys.readouterr().out
