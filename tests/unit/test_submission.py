"""Runs as jobs: ids that follow from the run, one job at a time, nothing but the configuration handed over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dashboard_server import TOKEN, serving

from erpo_ray import settings
from erpo_ray.cli import main
from erpo_ray.cluster import submission
from erpo_ray.cluster.submission import Sent, attempt, entrypoint, run_id
from erpo_ray.config import Cluster, Config, Prefer
from erpo_ray.errors import EnvironmentFault, UsageError

ROOT = Path(__file__).parents[2]
DIR = "/mnt/shared/runs/first"


class Dashboard:
    """Jobs as Ray keeps them, without Ray."""

    ending = "FAILED"
    cuts = 0

    def __init__(self) -> None:
        self.jobs: list[SimpleNamespace] = []
        self.uploads: list[dict[str, bytes]] = []

    @contextmanager
    def client(self, address: str) -> Iterator[Dashboard]:
        yield self

    def list_jobs(self) -> list[SimpleNamespace]:
        return self.jobs

    def submit_job(
        self, *, submission_id: str, metadata: dict[str, str], runtime_env: dict[str, Any], **rest: Any
    ) -> str:
        assert list(runtime_env) == ["working_dir"]
        self.uploads.append({p.name: p.read_bytes() for p in Path(runtime_env["working_dir"]).rglob("*")})
        status = SimpleNamespace(value="PENDING")
        job = SimpleNamespace(
            submission_id=submission_id, metadata=metadata, status=status, message="", start_time=len(self.jobs), **rest
        )
        self.jobs.append(job)
        return submission_id

    def get_job_logs(self, job_id: str) -> str:
        return "".join(f"line {i}\n\n" for i in range(9))

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        yield "one\ntwo\n"
        if self.cuts:
            self.cuts -= 1
            raise RuntimeError("the connection closed")
        yield "three\n"
        self.jobs[-1].status.value = self.ending


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Dashboard:
    made = Dashboard()
    monkeypatch.setattr(submission, "_client", made.client)
    return made


def test_an_id_follows_from_settings_and_directory_and_not_from_where_it_runs() -> None:
    config = Config(name="mine")
    assert run_id(config, DIR) == run_id(Config(name="mine", cluster=Cluster(rollout_workers=8)), DIR + "/")
    others = [
        run_id(config, "/mnt/shared/runs/second"),
        run_id(Config(name="mine", seed=1), DIR),
        run_id(Config(name="mine", prefer=Prefer(samples=8)), DIR),
    ]
    assert len({run_id(config, DIR), *others}) == 4
    assert run_id(config, DIR).startswith("mine-") and run_id(Config(name="a b/c"), DIR).startswith("a-b-c-")


@pytest.mark.parametrize(
    ("found", "there", "name"),
    [
        ([], None, "r-a1"),
        ([Sent("r-a1", "RUNNING")], "r-a1", "r-a2"),
        ([Sent("r-a1", "PENDING")], "r-a1", "r-a2"),
        ([Sent("r-a1", "FAILED")], None, "r-a2"),
        ([Sent("r-a10", "SUCCEEDED"), Sent("r-a9", "FAILED")], "r-a10", "r-a11"),
        ([Sent("r-a2", "STOPPED"), Sent("r-a1", "SUCCEEDED")], None, "r-a3"),
        ([Sent("rr-a1", "RUNNING"), Sent("r-a1x", "RUNNING"), Sent("r-other-a1", "RUNNING")], None, "r-a1"),
    ],
)
def test_a_run_is_submitted_again_only_after_it_failed_or_was_stopped(
    found: list[Sent], there: str | None, name: str
) -> None:
    last, following = attempt("r", found)
    assert (last.id if last else None, following) == (there, name)


def test_the_entrypoint_is_one_command_whatever_the_directory_is_called() -> None:
    assert entrypoint(DIR) == f"python -m erpo_ray run config.yaml --run-dir {DIR}"
    assert entrypoint("/mnt/a b;c") == "python -m erpo_ray run config.yaml --run-dir '/mnt/a b;c'"


def test_what_is_handed_over_is_the_resolved_configuration_and_nothing_else(
    dashboard: Dashboard, tmp_path: Path
) -> None:
    config = Config(name="mine", seed=7)
    job, new = submission.submit(config, DIR, "")
    assert new and job.id == run_id(config, DIR) + "-a1"
    (upload,) = dashboard.uploads
    assert list(upload) == ["config.yaml"] and len(upload["config.yaml"]) < 10_000
    (tmp_path / "config.yaml").write_bytes(upload["config.yaml"])
    assert settings.load(tmp_path / "config.yaml") == config


def test_a_second_submit_says_that_it_is_there(
    dashboard: Dashboard, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text("name: mine\n")
    command = ["submit", str(tmp_path / "c.yaml"), "--run-dir", DIR, "--address", "http://127.0.0.1:8265"]
    name = run_id(Config(name="mine"), DIR) + "-a1"
    follow = f"next: erpo tail {DIR} --address http://127.0.0.1:8265\n"
    assert main(command) == 0
    assert capsys.readouterr().out == f"submitted: {name}\n{follow}"
    assert main(command) == 0
    assert capsys.readouterr().out == f"already there: {name} is PENDING; nothing was submitted\n{follow}"
    assert len(dashboard.jobs) == 1


def test_what_comes_next_names_the_dashboard_that_the_environment_named(
    dashboard: Dashboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "http://10.0.0.1:8265")
    (tmp_path / "c.yaml").write_text("name: mine\n")
    assert main(["submit", str(tmp_path / "c.yaml"), "--run-dir", DIR]) == 0
    assert capsys.readouterr().out.endswith(f"next: erpo tail {DIR} --address http://10.0.0.1:8265\n")


def test_status_and_tail_find_the_last_job_of_a_directory(
    dashboard: Dashboard, capsys: pytest.CaptureFixture[str]
) -> None:
    submission.submit(Config(name="mine"), DIR, "")
    dashboard.jobs[0].status.value = "FAILED"
    job, _ = submission.submit(Config(name="mine"), DIR, "")
    submission.submit(Config(name="mine"), DIR + "2", "")
    assert job.id.endswith("-a2") and submission.find(DIR, "").id == job.id
    assert submission.last_lines(job, "") == [f"line {i}" for i in range(4, 9)]
    assert main(["tail", DIR + "2", "--address", "x"]) == 1
    dashboard.ending = "STOPPED"
    assert main(["tail", DIR + "2", "--address", "x"]) == 75
    assert capsys.readouterr().out.splitlines()[:3] == ["one", "two", "three"]
    with pytest.raises(UsageError, match="no job for it"):
        submission.find("/elsewhere", "")


def test_a_broken_connection_is_made_anew_and_each_line_told_once(dashboard: Dashboard) -> None:
    submission.submit(Config(name="mine"), DIR, "")
    dashboard.cuts = 2
    told: list[str] = []
    waits: list[float] = []
    assert submission.follow(DIR, "", told.append, waits.append).status == "FAILED"
    assert told == ["one", "two", "three"] and len(waits) == 2


def test_a_dashboard_that_stays_away_ends_the_following(dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    submission.submit(Config(name="mine"), DIR, "")

    def gone(seconds: float) -> None:
        waits.append(seconds)
        monkeypatch.setattr(dashboard, "list_jobs", shut)

    def shut() -> None:
        raise EnvironmentFault("no dashboard answers")

    waits: list[float] = []
    dashboard.cuts = 99
    with pytest.raises(EnvironmentFault, match="no dashboard"):
        submission.follow(DIR, "", lambda line: None, gone)
    assert len(waits) == submission.MISSES


@pytest.mark.parametrize(
    ("config", "run_dir", "said"),
    [
        (Config(), "runs/first", "give the whole path"),
        (Config.model_validate({"rules": {"path": "http://me:word@h/v1"}}), DIR, "plain text"),
    ],
)
def test_what_other_machines_cannot_mean_or_must_not_know_is_refused(
    dashboard: Dashboard, config: Config, run_dir: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        submission.submit(config, run_dir, "")
    assert dashboard.jobs == []


def test_an_address_has_to_be_that_of_a_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(UsageError, match="found '10.0.0.1:6379'; give the dashboard"):
        submission.find(DIR, "")


# Ray's own client, on a dashboard that wants a token


def erpo(*arguments: str, token: str = "", home: Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: Ray reads its token once."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {"HOME": str(home)}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "erpo_ray", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


def test_the_command_hands_a_run_over_with_the_token_and_finds_it_again(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("name: mine\n")
    with serving() as server:
        where = ("--address", server.url)
        send = ("submit", str(tmp_path / "c.yaml"), "--run-dir", DIR, *where)
        refused = erpo(*send, home=tmp_path)
        assert refused.returncode == 3 and server.jobs == []
        assert "does not take our token" in refused.stderr and "Traceback" not in refused.stderr

        sent = erpo(*send, token=TOKEN, home=tmp_path)
        assert (sent.returncode, sent.stderr) == (0, "")
        (job,) = server.jobs
        name = run_id(Config(name="mine"), DIR) + "-a1"
        assert (job["submission_id"], job["entrypoint"]) == (name, entrypoint(DIR))
        assert set(job["runtime_env"]) <= {"working_dir", "_ray_commit"}
        assert list(server.files()) == ["config.yaml"] and sum(map(len, server.packages.values())) < 8192
        assert TOKEN not in json.dumps(job) and TOKEN.encode() not in server.files()["config.yaml"]

        again = erpo(*send, token=TOKEN, home=tmp_path)
        assert again.stdout.startswith(f"already there: {name} is RUNNING") and len(server.jobs) == 1

        shown = erpo("status", DIR, *where, token=TOKEN, home=tmp_path)
        assert shown.stdout.splitlines() == [
            f"job        {name}",
            "state      RUNNING",
            "at work",
            "",
            "rollouts: 0/480",
            "rollouts: 120/480, 3.1/s, 1:56 left",
        ]


def test_a_dashboard_that_is_not_there_is_told_as_such(tmp_path: Path) -> None:
    told = erpo("status", DIR, "--address", "http://127.0.0.1:9", home=tmp_path)
    assert told.returncode == 3
    assert told.stderr == "erpo: no dashboard answers at http://127.0.0.1:9; is its tunnel open?\n"
