"""The run directory when nothing crashes, and what it refuses."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from ruamel.yaml import YAML
from rundir_driver import CONFIG, INPUTS, NoSync, drive, sample, weights

from erpo_ray.config import Config, Data, Prefer, Rules, Source
from erpo_ray.errors import EnvironmentFault, UsageError
from erpo_ray.rundir import Files, RunDir, StageDir, read_rows
from erpo_ray.rundir.lines import plain_rows
from erpo_ray.telemetry import Span, Step
from erpo_ray.types import Candidate, LeftOut, Scores, Verdict, identity


def candidate(key: str, text: str = "hello") -> Candidate:
    return Candidate(key, "p", 0, (1, 2), text, "stop", "v")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDir]:
    with RunDir.open(tmp_path / "run", CONFIG, inputs=INPUTS, files=NoSync()) as run:
        yield run


# Stages

ROWS = (LeftOut("a", "no verdict"), LeftOut("b", "too long"))


def test_an_artefact_is_made_once(run: RunDir) -> None:
    with run.stage("00-imitate") as stage:
        assert stage.once("left_out.jsonl", LeftOut, lambda: iter(ROWS)) == ROWS
        assert stage.once("left_out.jsonl", LeftOut, lambda: pytest.fail("made again")) == ROWS
        assert stage.once("none.jsonl", LeftOut, lambda: []) == ()
        assert stage.once("none.jsonl", LeftOut, lambda: ROWS) == ()
        assert stage.value("cap.json", int, lambda: 96) == 96
        assert stage.value("cap.json", int, lambda: 12) == 96


def test_what_could_not_be_read_back_is_not_written(run: RunDir) -> None:
    bad = Verdict("a", "rules", Scores(float("nan"), 0.0, 1))
    with run.stage("00-imitate") as stage:
        with pytest.raises(ValueError, match="safety"):
            stage.once("verdicts.jsonl", Verdict, lambda: [bad])
        assert not (stage.path / "verdicts.jsonl").exists()
        with pytest.raises(ValueError, match="safety"):
            stage.ledger("verdicts.jsonl", Verdict).append(bad)


@pytest.mark.parametrize("name", ["../pairs.jsonl", "a/b", ".hidden", "", "/etc/passwd"])
def test_names_cannot_leave_the_stage(run: RunDir, name: str) -> None:
    with pytest.raises(ValueError, match="not a plain file name"):
        run.stage("00-imitate").once(name, LeftOut, lambda: [])
    with pytest.raises(ValueError, match="not a plain file name"):
        run.stage(name)


def test_a_directory_is_made_once_and_keeps_the_work_of_a_failed_try(run: RunDir) -> None:
    tries: list[list[str]] = []

    def make(out: Path, work: Path) -> dict[str, float]:
        tries.append([path.name for path in [*out.iterdir(), *work.iterdir()]])
        (work / "checkpoint-8").mkdir(exist_ok=True)
        (out / "model.safetensors").write_bytes(b"w")
        if len(tries) == 1:
            raise KeyboardInterrupt
        return {"loss": 0.25}

    with run.stage("00-imitate") as stage:
        with pytest.raises(KeyboardInterrupt):
            stage.directory("policy", make)
        assert not (stage.path / "policy").exists()
        policy = stage.directory("policy", make)
        assert stage.directory("policy", make) == policy == stage.path / "policy"
        assert tries == [[], ["checkpoint-8"]]
        assert stage.facts("policy") == {"loss": 0.25}
        assert sorted(path.name for path in stage.path.iterdir()) == ["policy", "policy_facts.json"]


# Seals


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    drive(NoSync(), tmp_path / "run")
    return tmp_path / "run"


def reopened(root: Path) -> StageDir:
    with RunDir.open(root, CONFIG, inputs=INPUTS, files=NoSync()) as run:
        return run.stage("01-prefer")


def test_a_sealed_stage_is_read_and_not_made(finished: Path) -> None:
    stage = reopened(finished)
    before = {path: path.read_bytes() for path in stage.path.rglob("*") if path.is_file()}
    assert stage.sealed and stage.meta == {"utility": 0.5, "loss": 0.5}
    assert stage.directory("policy", weights(Files(), "other")) == stage.path / "policy"
    assert stage.facts("policy") == {"loss": 0.5}
    candidates = stage.ledger("candidates.jsonl", Candidate)
    assert [row.text for row in candidates] == [sample(f"c{number}") for number in range(8)]
    with pytest.raises(UsageError, match="candidates.jsonl is sealed"):
        candidates.append(candidate("more"))
    with pytest.raises(UsageError, match="is sealed without more.jsonl"):
        stage.once("more.jsonl", LeftOut, lambda: [])
    assert {path: path.read_bytes() for path in stage.path.rglob("*") if path.is_file()} == before


def test_every_file_of_a_sealed_stage_is_checked(finished: Path) -> None:
    folder = finished / "stages" / "01-prefer"
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "stage.json"]
    assert len(files) == 11
    for path in files:
        data = path.read_bytes()
        for damage in (bytes([data[0] ^ 1]) + data[1:], data[:-1], data + b"x", b"", None):
            path.unlink() if damage is None else path.write_bytes(damage)
            with pytest.raises(
                UsageError, match=rf"{path} (has|is missing).* sealed with {len(data)} bytes, sha256 \w+"
            ):
                reopened(finished)
            assert path.exists() == (damage is not None)
        path.write_bytes(data)
    assert reopened(finished).sealed


def test_a_damaged_seal_is_an_error(finished: Path) -> None:
    path = finished / "stages" / "01-prefer" / "stage.json"
    data = path.read_bytes()
    for at in range(0, len(data), 31):
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        with pytest.raises(UsageError, match=f"{path}, line 1: damaged"):
            reopened(finished)


# The run


def test_config_yaml_is_the_resolved_configuration(run: RunDir) -> None:
    source = Source(path="1e-6", where={"on": "yes"}, limit=1, repeat=1)
    tricky = Config(name="no", data=Data(train=(source,)), prefer=Prefer(beta=1e-5))
    with RunDir.open(run.path.with_name("tricky"), tricky) as other:
        text = (other.path / "config.yaml").read_text()
        assert Config.model_validate(YAML(typ="safe").load(text)) == tricky
    assert Config.model_validate(YAML(typ="safe").load((run.path / "config.yaml").read_text())) == CONFIG


def test_a_password_in_a_url_is_not_stored(tmp_path: Path) -> None:
    config = Config(rules=Rules(path="http://me:hunter2@host:8000/v1"))
    with RunDir.open(tmp_path / "run", config):
        pass
    stored = b"".join(path.read_bytes() for path in (tmp_path / "run").iterdir())
    assert b"hunter2" not in stored and b"http://***@host:8000/v1" in stored


def test_another_configuration_is_refused_with_the_difference(run: RunDir) -> None:
    run.close()
    before = (run.path / "lease.json").read_bytes()
    other = CONFIG.model_copy(update={"seed": 5, "prefer": CONFIG.prefer.model_copy(update={"samples": 8})})
    with pytest.raises(UsageError) as refused:
        RunDir.open(run.path, other, inputs={**INPUTS, "rules": "4567"})
    assert str(refused.value) == (
        f"{run.path} belongs to a run with another configuration. Changed: prefer.samples: 4 -> 8; seed: 0 -> 5; "
        f"input rules: 0123 -> 4567. Use another --run-dir, or continue with its own {run.path}/config.yaml"
    )
    assert (run.path / "lease.json").read_bytes() == before


def test_where_it_runs_may_change(run: RunDir) -> None:
    run.close()
    moved = Config.model_validate({**CONFIG.model_dump(), "backend": "inprocess", "cluster": {"rollout_workers": 4}})
    with RunDir.open(run.path, moved, inputs=INPUTS) as again:
        assert again.id == run.id


def test_the_id_follows_from_what_is_computed(run: RunDir, tmp_path: Path) -> None:
    with RunDir.open(tmp_path / "same", CONFIG, inputs=INPUTS) as same:
        assert same.id == run.id
    with RunDir.open(tmp_path / "other", CONFIG, inputs={"rules": "9"}) as other:
        assert other.id != run.id


def test_a_damaged_fingerprint_is_not_taken_for_another_configuration(run: RunDir) -> None:
    run.close()
    path = run.path / "fingerprint.json"
    text = path.read_text()
    for damaged in (text.replace('"seed": "0"', '"seed": "1"'), text[:100], ""):
        path.write_text(damaged)
        with pytest.raises(UsageError, match="fingerprint.json is damaged"):
            RunDir.open(run.path, CONFIG, inputs=INPUTS)


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine: true\n")
    with pytest.raises(UsageError, match=f"{tmp_path} is not empty and not a run directory .*found config.yaml"):
        RunDir.open(tmp_path, CONFIG)
    with pytest.raises(UsageError, match="is a file, not a run directory"):
        RunDir.open(tmp_path / "config.yaml", CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert (tmp_path / "config.yaml").read_text() == "mine: true\n"


def test_too_little_space_and_no_permission_are_faults_of_the_machine(tmp_path: Path) -> None:
    class Small(Files):
        def free(self, path: Path) -> int:
            return 5 << 20

    with pytest.raises(EnvironmentFault, match=f"{tmp_path} has 5 MiB free, the run needs 900 MiB; free space there"):
        RunDir.open(tmp_path / "run", CONFIG, files=Small(), need_bytes=900 << 20)
    assert not (tmp_path / "run").exists()
    stage = tmp_path / "run" / "stages" / "00-imitate"
    with RunDir.open(tmp_path / "run", CONFIG):
        stage.mkdir(parents=True)
    (stage / "model.safetensors").write_bytes(bytes(2 << 20))
    with RunDir.open(tmp_path / "run", CONFIG, files=Small(), need_bytes=7 << 20):
        pass
    with pytest.raises(EnvironmentFault, match="5 MiB free, the run needs 6 MiB"):
        RunDir.open(tmp_path / "run", CONFIG, files=Small(), need_bytes=8 << 20)
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match=f"cannot create {tmp_path}/file/run: Not a directory"):
        RunDir.open(tmp_path / "file" / "run", CONFIG)


def test_metrics_hold_one_row_a_stage(run: RunDir) -> None:
    assert run.append_metric({"stage": "base", "eval/utility": 0.5})
    assert run.append_metric({"stage": "base", "step": 1, "train/loss": 0.7})
    assert not run.append_metric({"stage": "base", "eval/utility": 0.5})
    run.close()
    path = run.path / "metrics.jsonl"
    with path.open("a") as stream:
        stream.write('{"stage":"00-im')
    notes: list[str] = []
    with RunDir.open(run.path, CONFIG, inputs=INPUTS, note=notes.append) as again:
        assert not again.append_metric({"stage": "base", "eval/utility": 0.5, "eval/new": 1})
        with pytest.raises(UsageError, match=f"{path}, stage base: eval/utility is 0.5, but the stage gave 0.9;"):
            again.append_metric({"stage": "base", "eval/utility": 0.9})
        assert again.append_metric({"stage": "00-imitate", "eval/utility": 0.75})
    assert notes == [f"{path}: the last 15 bytes were torn by a crash and are cut off"]
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"stage": "base", "eval/utility": 0.5},
        {"stage": "base", "step": 1, "train/loss": 0.7},
        {"stage": "00-imitate", "eval/utility": 0.75},
    ]
    path.write_text('{"stage":"base"}\nnonsense\n')
    with pytest.raises(UsageError, match=f"{path}, line 2: .*; correct or delete that line"):
        RunDir.open(run.path, CONFIG, inputs=INPUTS)


def test_seconds_of_a_phase_are_kept_however_it_ends(run: RunDir) -> None:
    with run.timed("base", "evaluation"):
        assert json.loads((run.path / "status.json").read_text())["phase"] == "evaluation"
        time.sleep(0.02)
    with pytest.raises(KeyboardInterrupt), run.timed("00-imitate", "training"):
        raise KeyboardInterrupt
    run.close()
    path = run.path / "phases.jsonl"
    with path.open("a") as stream:
        stream.write('{"stage":"00-im')
    notes: list[str] = []
    with (
        RunDir.open(run.path, CONFIG, inputs=INPUTS, note=notes.append) as again,
        again.timed("00-imitate", "training"),
    ):
        pass
    assert notes == [f"{path}: the last 15 bytes were torn by a crash and are cut off"]
    first, *others = plain_rows(path, Span)
    assert (first.stage, first.phase) == ("base", "evaluation") and 0.02 <= first.seconds < 5
    assert [(span.stage, span.phase) for span in others] == [("00-imitate", "training")] * 2


def test_seconds_that_cannot_be_written_do_not_hide_how_a_phase_ended(tmp_path: Path) -> None:
    class Full(Files):
        def append(self, path: Path, data: bytes) -> None:
            if path.name == "phases.jsonl":
                raise EnvironmentFault("no room")
            super().append(path, data)

    notes: list[str] = []
    with RunDir.open(tmp_path / "run", CONFIG, files=Full(), note=notes.append) as run:
        with pytest.raises(ZeroDivisionError), run.timed("base", "evaluation"):
            raise ZeroDivisionError
    assert notes == ["phases.jsonl lacks 0 s of evaluation in base: no room"]


def test_an_artefact_of_a_try_is_written_anew_and_sealed(run: RunDir) -> None:
    with run.stage("00-imitate") as stage:
        stage.put("training.jsonl", Step, [Step(1, 0.5), Step(2, 0.25)])
        stage.put("training.jsonl", Step, [Step(1, 0.75)])
        with pytest.raises(msgspec.ValidationError):
            stage.put("training.jsonl", Step, [Step(1, math.nan)])
        stage.seal({})
    assert list(read_rows(stage.path / "training.jsonl", Step)) == [Step(1, 0.75)]
    (stage.path / "training.jsonl").unlink()
    with pytest.raises(UsageError, match="training.jsonl is missing, but was sealed"):
        run.stage("00-imitate")


def test_status_tells_where_the_run_is(run: RunDir) -> None:
    run.status("running", stage="01-prefer", phase="rollout", done=3)
    run.status("failed", exit_code=1, message="zero pairs")
    status = json.loads((run.path / "status.json").read_text())
    assert status.pop("updated")[:2] == "20" and status.pop("host") == os.uname().nodename
    assert status == {
        "state": "failed",
        "exit_code": 1,
        "stage": "01-prefer",
        "phase": "rollout",
        "message": "zero pairs",
        "pid": os.getpid(),
    }


def test_policy_leads_to_the_last_accepted_one(run: RunDir) -> None:
    for name in ("00-imitate", "01-prefer"):
        with run.stage(name) as stage:
            run.point_policy(stage.directory("policy", weights(Files(), name)))
    assert os.readlink(run.path / "policy") == "stages/01-prefer/policy"
    assert (run.path / "policy" / "model.safetensors").read_text().startswith("01-prefer")


def test_environment_tells_versions_and_nothing_else(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    told = json.loads((run.path / "environment.json").read_text())
    assert {"python", "platform", "cpus", "torch", "vllm", "ray"} < set(told)
    run.close()
    monkeypatch.setattr("erpo_ray.rundir.run.environment", lambda: {**told, "vllm": "99"})
    notes: list[str] = []
    with RunDir.open(run.path, CONFIG, inputs=INPUTS, note=notes.append):
        assert notes == [f"the environment changed since the last start: vllm: {told['vllm']} -> 99"]


def test_ids_of_a_run_fit_no_other(run: RunDir) -> None:
    parts = (run.id, "01-prefer", "p", "0")
    ids = {identity(*parts[:at], "other", *parts[at + 1 :]) for at in range(4)} | {identity(*parts)}
    assert len(ids) == 5 and identity("ab", "c") != identity("a", "bc")
    assert run.id == identity("driven", json.loads((run.path / "fingerprint.json").read_text())["sha256"])
