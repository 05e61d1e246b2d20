"""Ray Train workers that stay up from a run's first training to its end: 1..n, gloo on CPU, NCCL on GPUs.

Their start and their imports take longer than a short stage trains, so they are paid once. `job` holds what they do.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from erpo_ray.cluster import data
from erpo_ray.cluster.crew import ANSWER_S, TRAIN_SHARE, answered
from erpo_ray.cluster.job import Job, Progress, Scoring, train
from erpo_ray.cluster.start import Joined, machines
from erpo_ray.config import Cluster
from erpo_ray.errors import EnvironmentFault, RunFailed
from erpo_ray.placement import Infeasible, elastic
from erpo_ray.usage import Usage, usage

_PROGRESS_FILE = "progress.json"
_POLL_S = 1.0
_LAST_LINES = 3
_PARTING_S = 20.0
"""Seconds that idle workers have to end by themselves."""


class Trainers:
    """A worker group of Ray Train. One that failed or died is followed by a new one."""

    def __init__(self, cluster: Cluster, joined: Joined, judges: int, batches: Sequence[int]) -> None:
        self._cluster, self._joined = cluster, joined
        self._judges, self._batches = judges, batches
        self._group: _Group | None = None

    def start(self, storage: Path) -> _Group:
        """The group, whose workers start in the background if they are not up: as many as the cluster has room for now.

        `storage` is seen by all nodes. EnvironmentFault when there is no room for the fewest.
        """
        if self._group is None or self._group.ended:
            storage.mkdir(parents=True, exist_ok=True)
            self._group = _Group(self._fitting(), self._joined, storage)
        return self._group

    def _fitting(self) -> Cluster:
        try:
            return elastic(machines(), self._cluster, self._judges, self._batches, self._joined.gpu)
        except Infeasible as error:
            raise EnvironmentFault(f"{error}; bring nodes back and start the same command again") from error

    def train(self, job: Job, progress: Progress) -> dict[str, float]:
        """Train and return the metrics of rank 0. RunFailed with the cause's last lines when a worker fails."""
        group = self.start(job.work)
        with _watch(job.work / _PROGRESS_FILE, progress):
            return group.do(job)

    def score(self, rows: Scoring) -> bool:
        """Have these rows scored in the background, unless the workers have something to do already."""
        return self._group is not None and self._group.score(rows)

    def usage(self) -> dict[str, Usage]:
        """What each worker held when it had done its last job, by name."""
        return {} if self._group is None or self._group.ended else self._group.usage()

    def close(self) -> None:
        """End the workers."""
        if self._group:
            self._group.part()


def trainer(cluster: Cluster, joined: Joined, storage: Path, desk: Any) -> Any:
    """Of Ray Train, under a name of its own: Ray Train would take a known name for a run to resume.

    Checkpoints are the trainer's, in `job.work`; `storage` only has to be seen by all nodes.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    return TorchTrainer(
        _loop,
        train_loop_config={"desk": desk},
        scaling_config=ScalingConfig(
            num_workers=cluster.train_workers,
            use_gpu=joined.gpu,
            resources_per_worker=_resources(cluster, joined),
            label_selector=cluster.train_labels or None,
        ),
        run_config=RunConfig(name=f"erpo-{uuid.uuid4().hex[:12]}", storage_path=str(storage)),
    )


Task = Job | Scoring | None


class Desk:
    """Where the driver leaves jobs, which every rank takes in turn, and rank 0 their metrics."""

    def __init__(self) -> None:
        self._jobs: list[Task] = []
        self._results: list[dict[str, float]] = []
        self._held: dict[int, Usage] = {}
        self._news = asyncio.Condition()

    async def leave(self, job: Task) -> None:
        """A job, or None when there will be no other."""
        async with self._news:
            self._jobs.append(job)
            self._news.notify_all()

    async def take(self, number: int) -> Task:
        """The job of that number, once it is there."""
        async with self._news:
            await self._news.wait_for(lambda: len(self._jobs) > number)
            return self._jobs[number]

    async def done(self) -> int:
        """How many jobs have their metrics."""
        return len(self._results)

    async def finish(self, metrics: dict[str, float]) -> None:
        """The metrics of the next job in turn."""
        async with self._news:
            self._results.append(metrics)
            self._news.notify_all()

    async def hold(self, rank: int, held: Usage) -> None:
        """What the worker of that rank holds now."""
        self._held[rank] = held

    async def held(self) -> dict[int, Usage]:
        """By rank."""
        return self._held

    async def result(self, number: int) -> dict[str, float]:
        """The metrics of the job of that number, once they are there."""
        async with self._news:
            await self._news.wait_for(lambda: len(self._results) > number)
            return self._results[number]


class _Group:
    """One `fit` of Ray Train in a thread of the driver: it goes on while rollouts are drawn."""

    def __init__(self, cluster: Cluster, joined: Joined, storage: Path) -> None:
        # Beside the driver: with another node it would be lost.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._desk: Any = ray.remote(num_cpus=0)(Desk).options(scheduling_strategy=here).remote()
        self._jobs, self._busy = 0, False
        self._scored: Any = None
        self._parting = threading.Event()
        self._free = threading.Event()
        self._free.set()
        self._fit: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(cluster, joined, storage), daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        return self._fit.done()

    def do(self, job: Job) -> dict[str, float]:
        result, self._busy = self._leave(job), True
        self._free.clear()
        try:
            while not ray.wait([result], timeout=_POLL_S)[0]:
                if self._fit.done():
                    self._fit.result()
                if self._parting.is_set():
                    raise RunFailed("the run ended in the middle of a training")
            self._busy = False
            return ray.get(result)
        finally:
            self._free.set()

    def score(self, rows: Scoring) -> bool:
        if self._scored is not None and not ray.wait([self._scored], timeout=0)[0]:
            return False
        self._scored = self._leave(rows)
        return True

    def usage(self) -> dict[str, Usage]:
        held = answered(self._desk.held.remote(), ANSWER_S) or {}
        return {f"trainer-{rank}": held[rank] for rank in sorted(held)}

    def _leave(self, task: Job | Scoring) -> Any:
        """What its metrics come by."""
        result = self._desk.result.remote(self._jobs)
        self._desk.leave.remote(task)
        self._jobs += 1
        return result

    def part(self) -> None:
        """Those that are in the middle of a job end with the driver's connection, which no thread of ours uses then."""
        self._parting.set()
        self._free.wait(_PARTING_S)
        if not self._busy:
            self._desk.leave.remote(None)
            self._thread.join(_PARTING_S)

    def _run(self, cluster: Cluster, joined: Joined, storage: Path) -> None:
        try:
            self._fit.set_result(_fit(trainer(cluster, joined, storage, self._desk)))
        except BaseException as error:
            self._fit.set_exception(error)


def _fit(trainer: Any) -> None:
    from ray.train import TrainingFailedError, WorkerGroupError

    try:
        trainer.fit()
    except TrainingFailedError as error:
        failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
        cause = str(failures[min(failures)]) if failures else str(error)
        lines = [line.strip() for line in cause.splitlines() if line.strip()]
        raise RunFailed(f"training failed: {' | '.join(lines[-_LAST_LINES:])}") from error


def _resources(cluster: Cluster, joined: Joined) -> dict[str, float]:
    """Of each worker. On CPU at most half of the cores are reserved: reading the rows needs a share too."""
    if joined.gpu:
        return {"CPU": 1, "GPU": TRAIN_SHARE if cluster.share_gpu else 1}
    return {"CPU": min(1.0, joined.cpus / (2 * cluster.train_workers))}


def _loop(config: dict[str, Any]) -> None:
    """What every rank runs: one job after another."""
    from ray import train as ray_train
    from ray.train.collective import broadcast_from_rank_zero

    # Imports take seconds: they are done while there is nothing else to do.
    from erpo_ray.train import dpo, reinforce, sft  # noqa: F401
    from erpo_ray.train.reference import Referee

    desk, rank = config["desk"], ray_train.get_context().get_world_rank()
    first = rank == 0
    referee = Referee()
    # Ray Train starts workers of a preempted node again: what is done stays done.
    number = broadcast_from_rank_zero(_done(desk) if first else 0)
    while (job := _taken(desk, number)) is not None:
        if isinstance(job, Scoring):
            metrics = referee.score(job.reference, job.rows, job.training, job.kept, job.by_token)
        else:
            referee.rest()
            metrics = train(job, data.rows(job.rows, job.kind), _reporter(job.work / _PROGRESS_FILE) if first else None)
        ray.get(desk.hold.remote(rank, usage()))
        if first:
            ray.get(desk.finish.remote(metrics))
        number += 1


def _done(desk: Any) -> int:
    return ray.get(desk.done.remote())


def _taken(desk: Any, number: int) -> Task:
    return ray.get(desk.take.remote(number))


def _reporter(path: Path) -> Progress:
    def report(step: int, steps: int, metrics: dict[str, float]) -> None:
        scratch = path.with_suffix(".tmp")
        scratch.write_bytes(msgspec.json.encode((step, steps, metrics)))
        scratch.replace(path)

    return report


@contextmanager
def _watch(path: Path, progress: Progress) -> Iterator[None]:
    """Tell `progress` what the trainer writes to `path`, until the block ends."""
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
