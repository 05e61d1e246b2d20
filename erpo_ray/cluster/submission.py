"""Runs as jobs of a Ray cluster elsewhere: handed over once, found again by their run directory.

Only the configuration travels, some kilobytes: the project itself is installed on the nodes, and paths in the
configuration are those of the cluster. Ray keeps what a job is given in plain text, so no secret goes into it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from erpo_ray.config import Config
from erpo_ray.errors import EnvironmentFault, UsageError
from erpo_ray.rundir.fingerprint import config_yaml, fingerprint, plain
from erpo_ray.types import identity

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

RUN_DIR = "erpo_run_dir"
"""Key of a job's metadata under which its run directory stands."""
ACTIVE = ("PENDING", "RUNNING")
CONFIG = "config.yaml"
_LAST_LINES = 5
MISSES, AGAIN_S = 30, 2.0
"""Times in a row that the dashboard may not answer whoever follows a run, and seconds between two looks."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A job of a run: its submission id, Ray's word for its state (`PENDING`, `RUNNING`, `STOPPED`, `SUCCEEDED`,
    `FAILED`) and message, when it began (ms since the epoch)."""

    id: str
    status: str
    message: str = ""
    began: int = 0


def run_id(config: Config, run_dir: str) -> str:
    """What the submission ids of a run begin with: equal for equal settings in the same directory, wherever it is run.

    Where it runs (`cluster`, `backend`, `tracking`) does not count, as in the run directory's own fingerprint.
    """
    name = re.sub(r"[^\w-]+", "-", config.name)
    return f"{name}-{identity(fingerprint(config, {}).sha256, os.path.normpath(run_dir))}"


def attempt(run: str, found: Sequence[Sent]) -> tuple[Sent | None, str]:
    """The job that is this run already, if one is at work or has succeeded, and the id of the next attempt.

    `found` are the jobs of the cluster. Attempts are numbered: `RUN-a1`, `RUN-a2`.
    """
    mine = {int(match[1]): job for job in found if (match := re.fullmatch(rf"{re.escape(run)}-a(\d+)", job.id))}
    last = mine[max(mine)] if mine else None
    there = last if last and (last.status in ACTIVE or last.status == "SUCCEEDED") else None
    return there, f"{run}-a{max(mine, default=0) + 1}"


def entrypoint(run_dir: str) -> str:
    """The one command of the job."""
    return shlex.join(["python", "-m", "erpo_ray", "run", CONFIG, "--run-dir", run_dir])


def submit(config: Config, run_dir: str, address: str) -> tuple[Sent, bool]:
    """Hand a run over. Returns its job, and False when it was there already.

    UsageError for a directory that other machines cannot mean, or a password in the settings; EnvironmentFault when the
    cluster does not answer or refuses.
    """
    if not os.path.isabs(run_dir):
        raise UsageError(f"--run-dir: found {run_dir!r}; give the whole path of a folder that all nodes share")
    if plain(config) != config.model_dump(mode="json"):
        raise UsageError(
            "the configuration has a password in a URL, which the cluster would keep in plain text; "
            "name an environment variable of the nodes instead (api_key_env)"
        )
    run = run_id(config, run_dir)
    with _client(address) as client:
        there, name = attempt(run, _jobs(client))
        if there:
            return there, False
        with tempfile.TemporaryDirectory(prefix="erpo-submit-") as folder:
            (Path(folder) / CONFIG).write_bytes(config_yaml(config))
            client.submit_job(
                entrypoint=entrypoint(run_dir),
                submission_id=name,
                runtime_env={"working_dir": folder},
                metadata={RUN_DIR: os.path.normpath(run_dir), "erpo_run": config.name},
            )
        return Sent(name, "PENDING"), True


def find(run_dir: str, address: str) -> Sent:
    """The last job that was submitted for a run directory. UsageError when there is none."""
    with _client(address) as client:
        return _found(client, run_dir)


def last_lines(job: Sent, address: str) -> list[str]:
    """The end of what the run has printed."""
    with _client(address) as client:
        return [line for line in client.get_job_logs(job.id).splitlines() if line.strip()][-_LAST_LINES:]


def follow(run_dir: str, address: str, say: Callable[[str], None], sleep: Callable[[float], None] = time.sleep) -> Sent:
    """Pass on what the run prints until it ends; what became of it.

    A connection that breaks is made anew, and each line told once: the dashboard begins every time at the first one. A
    later attempt of the run is followed too. EnvironmentFault when the dashboard stays away.
    """
    job, told, misses = find(run_dir, address), 0, 0
    while True:
        try:
            with _client(address) as client:
                told = asyncio.run(_pass_on(client, job.id, say, told))
                now, misses = _found(client, run_dir), 0
        except EnvironmentFault:
            misses += 1
            if misses == MISSES:
                raise
            now = job
        if now.status not in ACTIVE and now.id == job.id and not misses:
            return now
        job, told = now, told if now.id == job.id else 0
        sleep(AGAIN_S)


async def _pass_on(client: JobSubmissionClient, name: str, say: Callable[[str], None], told: int) -> int:
    """Lines behind the first `told`; how many there are now, also where the connection breaks."""
    from aiohttp import ClientError

    number, chunks = 0, client.tail_job_logs(name)
    while True:
        try:
            chunk = await anext(chunks, None)
        except (RuntimeError, ClientError, OSError):
            chunk = None
        if chunk is None:
            return max(number, told)
        for line in chunk.splitlines():
            number += 1
            if number > told:
                say(line)


def _found(client: JobSubmissionClient, run_dir: str) -> Sent:
    jobs = _jobs(client, os.path.normpath(run_dir))
    if not jobs:
        raise UsageError(f"{run_dir}: the cluster has no job for it; submit it with erpo submit")
    return max(jobs, key=lambda job: job.began)


def _jobs(client: JobSubmissionClient, run_dir: str | None = None) -> list[Sent]:
    return [
        Sent(job.submission_id, str(job.status.value), job.message or "", job.start_time or 0)
        for job in client.list_jobs()
        if job.submission_id and (run_dir is None or (job.metadata or {}).get(RUN_DIR) == run_dir)
    ]


def dashboard(address: str) -> str:
    """The dashboard at this address, or the one that the environment names. UsageError when it is none."""
    where = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS", "")
    if not where.startswith(("http://", "https://")):
        raise UsageError(
            f"--address: found {where!r}; give the dashboard of the cluster, as in http://127.0.0.1:8265, or set "
            "RAY_ADDRESS (`ray dashboard CLUSTER.yaml` makes a tunnel to it)"
        )
    return where


@contextmanager
def _client(address: str) -> Iterator[JobSubmissionClient]:
    """A connection to the dashboard; what it raises becomes an EnvironmentFault with the remedy."""
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    # Of an upload of some kilobytes nothing need be told; the client's logger has a level of its own.
    for name in ("ray", "ray.dashboard.modules.dashboard_sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)
    where = dashboard(address)
    try:
        yield JobSubmissionClient(where)
    except AuthenticationError as error:
        raise EnvironmentFault(
            f"{where} does not take our token; set RAY_AUTH_MODE=token, with the cluster's token in ~/.ray/auth_token"
        ) from error
    except OSError as error:
        raise EnvironmentFault(f"no dashboard answers at {where}; is its tunnel open?") from error
    except RuntimeError as error:
        why = next(iter(str(error).splitlines()), "no reason given")
        raise EnvironmentFault(f"{where} refuses: {why}") from error
