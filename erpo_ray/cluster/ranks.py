"""What every rank of a worker group does, one job after another, and how the driver hears of its progress."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import ray

from erpo_ray.cluster import data
from erpo_ray.cluster.desk import Task
from erpo_ray.cluster.job import Progress, Scoring, train
from erpo_ray.errors import Interrupted
from erpo_ray.train import signs
from erpo_ray.usage import usage

_PROGRESS_FILE = "progress.json"
_POLL_S = 1.0


def loop(config: dict[str, Any]) -> None:
    """What every rank runs: one job after another."""
    from ray import train as ray_train
    from ray.train.collective import broadcast_from_rank_zero

    desk, context = config["desk"], ray_train.get_context()
    rank, ranks = context.get_world_rank(), context.get_world_size()
    _enrol(desk, rank)

    # Imports take seconds: they are done while there is nothing else to do.
    from erpo_ray.train import dpo, reinforce, sft  # noqa: F401
    from erpo_ray.train.reference import Referee

    first = rank == 0
    referee = Referee()
    # Ray Train starts workers of a preempted node again: what is done stays done.
    number = broadcast_from_rank_zero(_begun(desk) if first else 0)
    while (job := _taken(desk, number, rank, ranks)) is not None:
        with signs.left(job.work, rank, ranks):
            if isinstance(job, Scoring):
                metrics = referee.score(job.reference, job.rows, job.training, job.kept, job.by_token)
            else:
                referee.rest()
                report = _reporter(job.work / _PROGRESS_FILE) if first else None
                try:
                    metrics = train(job, data.rows(job.rows, job.kind), report)
                except Interrupted:
                    metrics = None
        ray.get(desk.hold.remote(rank, usage()))
        if first:
            ray.get(desk.finish.remote(metrics))
        number += 1


def _enrol(desk: Any, rank: int) -> None:
    """Whoever ends a rank that hangs must not have to ask it."""
    ray.get(desk.enrol.remote(rank, ray.get_runtime_context().current_actor))


def _begun(desk: Any) -> int:
    return ray.get(desk.begin.remote())


def _taken(desk: Any, number: int, rank: int, ranks: int) -> Task:
    return ray.get(desk.take.remote(number, rank, ranks))


def _reporter(path: Path) -> Progress:
    def report(step: int, steps: int, metrics: dict[str, float]) -> None:
        scratch = path.with_suffix(".tmp")
        scratch.write_bytes(msgspec.json.encode((step, steps, metrics)))
        scratch.replace(path)

    return report


@contextmanager
def watch(work: Path, progress: Progress) -> Iterator[None]:
    """Tell `progress` what the trainer of a job in `work` writes there, until the block ends."""
    path = work / _PROGRESS_FILE
    path.unlink(missing_ok=True)
    done = threading.Event()

    def poll() -> None:
        last, ended = b"", False
        while not ended:
            ended = done.wait(_POLL_S)
            if path.exists() and (now := path.read_bytes()) != last:
                last = now
                progress(*msgspec.json.decode(now))

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
