"""A Ray cluster of several hosts with token authentication, a run on it as a job, and what stands in its directory."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hosts import Host

from erpo_ray.rundir.lines import artefact_rows, ledger_rows
from erpo_ray.telemetry import Step
from erpo_ray.train.checkpoints import MARKER
from erpo_ray.types import Candidate, Verdict

BIN = Path(sys.executable).parent
GCS, DASHBOARD = 6379, 8265
WAIT_S = 600.0
STORE_BYTES = 200 * 2**20
ENGINE, RANK = "ray::RolloutWorker", "ray::RayTrainWorker"
"""Titles of processes."""
DRAWS, TRAINS = "draws", "trains"
"""Labels of hosts."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A head, one host that draws samples too and one that trains too; `code` is the project as all of them see it."""

    head: Host
    draws: Host
    trains: Host
    code: Path

    def submit(self, log: Path, *words: str) -> Job:
        """`jobs/train.py` with these words, followed to its end."""
        address = f"http://127.0.0.1:{DASHBOARD}"
        train = [str(BIN / "python"), str(self.code / "jobs" / "train.py"), *words]
        command = ray(self.head, "job", "submit", "--address", address, "--", *train)
        with log.open("wb") as stream:
            return Job(subprocess.Popen(command, stdout=stream, stderr=stream), log)


@dataclass(frozen=True, slots=True)
class Job:
    """A run under way."""

    process: subprocess.Popen[bytes]
    log: Path

    def until(self, seen: Callable[[], bool], what: str) -> float:
        """Seconds until something is there that the run brings about."""
        begun = time.monotonic()
        while not seen():
            assert self.process.poll() is None, f"ended before {what}:\n{self.said()}"
            assert time.monotonic() - begun < WAIT_S, f"no {what}:\n{self.said()}"
            time.sleep(0.05)
        return time.monotonic() - begun

    def end(self) -> int:
        return self.process.wait(WAIT_S)

    def said(self) -> str:
        return self.log.read_text(errors="replace")


@dataclass(frozen=True, slots=True)
class Place:
    """A run directory."""

    run: Path

    def drawn(self) -> dict[str, Candidate]:
        """All acknowledged candidates, each of which stands there once."""
        rows = [row for path in self.run.glob("stages/*/*candidates.jsonl") for row in ledger_rows(path, Candidate)]
        found = {row.id: row for row in rows}
        assert len(found) == len(rows)
        return found

    def judged(self) -> set[str]:
        """Ids that have a verdict."""
        paths = self.run.glob("stages/*/*verdicts.jsonl")
        return {row.candidate_id for path in paths for row in ledger_rows(path, Verdict)}

    def in_stage(self, stage: str) -> int:
        """How many candidates a stage has."""
        path = self.run / "stages" / stage / "candidates.jsonl"
        return sum(1 for _ in ledger_rows(path, Candidate)) if path.exists() else 0

    def checkpoint(self, stage: str) -> int:
        """The step of the whole checkpoint of a stage that trains; 0 while there is none."""
        found = (self.run / "stages" / stage / ".policy.work").glob(f"checkpoint-*/{MARKER}")
        return max((int(path.parent.name.split("-")[1]) for path in found), default=0)

    def steps(self, stage: str) -> list[int]:
        """Those that the trainer told of, in order."""
        path = self.run / "stages" / stage / "training.jsonl"
        with path.open("rb") as stream:
            return [row.step for row in artefact_rows(stream, Step, path)]

    def sealed(self, stage: str) -> bool:
        return (self.run / "stages" / stage / "stage.json").exists()

    def status(self) -> dict[str, object]:
        return json.loads((self.run / "status.json").read_text())


@contextmanager
def started(hosts: Sequence[Host], code: Path) -> Iterator[Cluster]:
    """`ray start` on three hosts, with a token that all know: a head that draws and trains, one that draws and one that
    trains. The last has two CPUs, the others one each: two trainers have no room on the head alone."""
    token = secrets.token_hex(32)
    for host in hosts:
        (host.home / ".ray").mkdir()
        (host.home / ".ray" / "auth_token").write_text(token)
    head, draws, trains = hosts
    first = ["--head", f"--port={GCS}", "--num-cpus=1", f"--labels={DRAWS}=here,{TRAINS}=here"]
    assert _start(head, code, first).wait(WAIT_S) == 0
    more = [f"--address={head.address}:{GCS}"]
    drawing, training = (
        _start(host, code, [*more, f"--num-cpus={cpus}", f"--labels={role}=here"])
        for host, role, cpus in ((draws, DRAWS, 1), (trains, TRAINS, 2))
    )
    assert drawing.wait(WAIT_S) == training.wait(WAIT_S) == 0
    yield Cluster(head, draws, trains, code)


def _start(host: Host, code: Path, words: Sequence[str]) -> subprocess.Popen[bytes]:
    size = [f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats"]
    command = ray(host, "start", f"--node-ip-address={host.address}", *words, *size, settings=[f"PYTHONPATH={code}"])
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def ray(host: Host, *words: str, settings: Sequence[str] = ()) -> Sequence[str]:
    """The command line of `ray` on a host; what it starts asks no network for anything."""
    mine = [
        "RAY_AUTH_MODE=token",
        "RAY_USAGE_STATS_ENABLED=0",
        # Ray lets its workers give way to all else, which hosts of one machine would feel from each other.
        "RAY_worker_niceness=0",
        "HF_HUB_OFFLINE=1",
        "TRANSFORMERS_OFFLINE=1",
        f"PATH={BIN}:{os.environ['PATH']}",
        *settings,
    ]
    return host.within(*mine, str(BIN / "ray"), *words)
