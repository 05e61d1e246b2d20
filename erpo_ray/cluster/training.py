"""Ray Train workers that stay up from a run's first training to its end: 1..n, gloo on CPU, NCCL on GPUs.

Their start and their imports take longer than a short stage trains, so they are paid once. `ranks` holds what they do.
"""

from __future__ import annotations

import errno
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from erpo_ray import stopping
from erpo_ray.cluster.crew import ANSWER_S, TRAIN_SHARE, answered
from erpo_ray.cluster.desk import Desk, Metrics
from erpo_ray.cluster.job import Job, Progress, Scoring
from erpo_ray.cluster.ranks import loop, watch
from erpo_ray.cluster.start import LOOK_S, Joined, machines
from erpo_ray.cluster.vigil import HANGS, LIMITS, Hung, Limits, Vigil
from erpo_ray.config import Cluster
from erpo_ray.errors import EnvironmentFault, Interrupted, RunFailed
from erpo_ray.placement import Infeasible, elastic
from erpo_ray.telemetry import Present
from erpo_ray.terminal import say
from erpo_ray.usage import Usage

_POLL_S = 1.0
_LAST_LINES = 3
_PARTING_S = 20.0
"""Seconds that idle workers have to end by themselves."""
_PING_S, _KILLED_S = 5.0, 60.0
"""Seconds in which a worker that is gone is known to be, and in which Ray Train finds those gone that were killed."""
_STARTS, _START_S = 5, 60.0
"""Times that a group's workers may fail to start, those of preempted nodes among them, and seconds that Ray Train gives
them each time. `cluster.wait_s` gives them more."""


class Trainers:
    """A worker group of Ray Train. One that failed or died is followed by a new one.

    `judges` take a GPU each. `present`: how many rollout and judge workers are up, as far as is known.
    """

    def __init__(
        self,
        cluster: Cluster,
        joined: Joined,
        judges: int,
        batches: Sequence[int],
        present: Callable[[], tuple[int, int]],
        limits: Limits = LIMITS,
    ) -> None:
        self._limits = limits
        self._cluster, self._joined = cluster, joined
        self._judges, self._batches, self._present = judges, batches, present
        self._group: _Group | None = None

    def start(self, storage: Path) -> _Group:
        """The group, whose workers start in the background if they are not up: as many as the cluster has room for now.

        `storage` is seen by all nodes.
        """
        if self._group is None or self._group.ended:
            storage.mkdir(parents=True, exist_ok=True)
            self._group = _Group(self._fitting, self._joined, storage)
        return self._group

    def _fitting(self, parting: threading.Event) -> Cluster:
        """The settings with as many workers as there is room for, looked for up to `cluster.wait_s`.

        EnvironmentFault when there is none for the fewest: Ray Train would wait for them without a word.
        """
        waited = 0.0 if self._joined.own else self._cluster.wait_s
        until, told = time.monotonic() + waited, False
        while True:
            try:
                return self._room()
            except Infeasible as error:
                if waited and not told:
                    say(f"training waits up to {waited:.0f} s for room: {error}")
                    told = True
                if time.monotonic() >= until:
                    after = f" after {waited:.0f} s" if waited else ""
                    raise EnvironmentFault(
                        f"no room to train: {error}{after}; bring nodes back and start the same command again"
                    ) from error
            stopping.check()
            if parting.wait(LOOK_S):
                raise RunFailed("the run ended before there was room to train")

    def _room(self) -> Cluster:
        nodes, gpu = machines(), self._joined.gpu
        try:
            return elastic(nodes, self._cluster, self._judges, self._batches, gpu)
        except Infeasible:
            # Rollouts and judging go on without workers whose node went, and so does training.
            rollout, judges = self._present()
            left = self._cluster.model_copy(update={"rollout_workers": rollout})
            with suppress(Infeasible):
                return elastic(nodes, left, min(judges, self._judges), self._batches, gpu)
            raise

    def train(self, job: Job, progress: Progress) -> dict[str, float]:
        """Train and return the metrics of rank 0. RunFailed with the cause's last lines when a worker fails,
        EnvironmentFault when there is no room for them or they do not start, Interrupted when asked to stop.

        Workers that hang are ended, and others go on from the last whole checkpoint. RunFailed when that is in vain.
        """
        stopping.clear(job.work)
        # Room is waited for, and then the start of the workers.
        waits_s, hangs, furthest = 2 * self._cluster.wait_s, 0, 0
        while True:
            group, vigil = self.start(job.work), Vigil(job.work, self._limits, waits_s, say)
            try:
                with watch(job.work, progress):
                    return group.do(job, vigil)
            except Hung as hung:
                hangs, furthest = 1 if hung.step > furthest else hangs + 1, max(furthest, hung.step)
                if not group.kill() or hangs == HANGS:
                    raise RunFailed(
                        f"training hung {hangs} times without a further step, the last: {hung}. Look at that worker's "
                        "machine and start the same command again: it goes on from the last whole checkpoint"
                    ) from hung
                say(f"training hung, its workers were ended and others take their place: {hung}")

    def score(self, rows: Scoring) -> bool:
        """Have these rows scored in the background, unless the workers have something to do already."""
        return self._group is not None and self._group.score(rows)

    def usage(self) -> dict[str, Usage]:
        """What the desk holds, and what each worker held when it had done its last job, by name."""
        return {} if self._group is None or self._group.ended else self._group.usage()

    def living(self) -> Present:
        """Workers of the group that is up, of those that the settings allow. For any thread."""
        group = self._group
        return Present(0 if group is None or group.ended else group.workers, self._cluster.train_workers)

    def close(self) -> None:
        """End the workers."""
        group, self._group = self._group, None
        if group:
            group.part()


def trainer(cluster: Cluster, joined: Joined, storage: Path, desk: Any) -> Any:
    """Of Ray Train, under a name of its own: Ray Train would take a known name for a run to resume.

    Checkpoints are the trainer's, in `job.work`; `storage` only has to be seen by all nodes.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from erpo_ray.cluster.meeting import Meeting

    return TorchTrainer(
        loop,
        train_loop_config={"desk": desk},
        torch_config=Meeting("nccl" if joined.gpu else "gloo", folder=str(joined.own)) if joined.own else None,
        scaling_config=ScalingConfig(
            num_workers=cluster.train_workers,
            use_gpu=joined.gpu,
            resources_per_worker=_resources(cluster, joined),
            label_selector=cluster.train_labels or None,
        ),
        run_config=RunConfig(
            name=f"erpo-{uuid.uuid4().hex[:12]}",
            storage_path=str(storage),
            # By default Ray Train starts workers without end where there is no room for them.
            failure_config=FailureConfig(controller_failure_limit=_STARTS - 1 + int(cluster.wait_s / _START_S)),
        ),
    )


class _Group:
    """One `fit` of Ray Train in a thread of the driver: it goes on while rollouts are drawn."""

    def __init__(self, fitting: Callable[[threading.Event], Cluster], joined: Joined, storage: Path) -> None:
        """`fitting` waits for room, if need be, and gives up when the event is set."""
        # Beside the driver: with another node it would be lost.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._desk: Any = ray.remote(num_cpus=0)(Desk).options(scheduling_strategy=here).remote()
        self._jobs, self._busy, self.workers = 0, False, 0
        self._scored: Any = None
        self._parting = threading.Event()
        self._free = threading.Event()
        self._free.set()
        self._fit: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(fitting, joined, storage), daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        return self._fit.done()

    def do(self, job: Job, vigil: Vigil) -> dict[str, float]:
        """Its metrics. Hung when the vigil finds that it stands still."""
        result, self._busy = self._leave(job), True
        self._free.clear()
        try:
            while not ray.wait([result], timeout=_POLL_S)[0]:
                if self._fit.done():
                    self._fit.result()
                if self._parting.is_set():
                    raise RunFailed("the run ended in the middle of a training")
                if stopping.asked():
                    stopping.leave(job.work)
                vigil.require(self._replaced)
            self._busy = False
            metrics: Metrics = ray.get(result)
            if metrics is None:
                raise Interrupted(stopping.message())
            return metrics
        finally:
            self._free.set()

    def kill(self) -> bool:
        """End the workers, stopped ones too; whether Ray Train has found them gone."""
        for worker in ray.get(self._desk.ranks.remote()):
            ray.kill(worker)
        self._thread.join(_KILLED_S)
        return self.ended

    def _replaced(self) -> bool:
        """Whether all workers that were up are gone, so that Ray Train starts others or ends."""
        pings = [worker.__ray_ready__.remote() for worker in ray.get(self._desk.ranks.remote())]
        ended = ray.wait(pings, num_returns=len(pings), timeout=_PING_S)[0] if pings else []
        return bool(pings) and len(ended) == len(pings) and all(map(_lost, ended))

    def score(self, rows: Scoring) -> bool:
        if self._scored is not None and not ray.wait([self._scored], timeout=0)[0]:
            return False
        self._scored = self._leave(rows)
        return True

    def usage(self) -> dict[str, Usage]:
        return answered(self._desk.held.remote(), ANSWER_S) or {}

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

    def _run(self, fitting: Callable[[threading.Event], Cluster], joined: Joined, storage: Path) -> None:
        try:
            cluster = fitting(self._parting)
            self.workers = cluster.train_workers
            self._fit.set_result(_fit(trainer(cluster, joined, storage, self._desk)))
        except BaseException as error:
            self._fit.set_exception(error)


def _fit(trainer: Any) -> None:
    from ray.train import ControllerError, TrainingFailedError, WorkerGroupError

    try:
        trainer.fit()
    except ControllerError as error:
        why = str(error.controller_failure).partition(". ")[0]
        raise EnvironmentFault(
            f"training failed: {why}; `ray status` shows what its workers wait for; bring nodes back and start the "
            "same command again"
        ) from error
    except TrainingFailedError as error:
        failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
        cause = str(failures[min(failures)]) if failures else str(error)
        lines = [line.strip() for line in cause.splitlines() if line.strip()]
        told = f"training failed: {' | '.join(lines[-_LAST_LINES:])}"
        if os.strerror(errno.ENOSPC) in cause:
            raise EnvironmentFault(f"{told}; free space there and start the same command again") from error
        raise RunFailed(told) from error


def _lost(ping: Any) -> bool:
    try:
        ray.get(ping)
    except RayActorError:
        return True
    return False


def _resources(cluster: Cluster, joined: Joined) -> dict[str, float]:
    """Of each worker. On CPU at most half of the cores there are now are reserved: reading the rows needs a share too,
    and nodes may have gone since the run joined."""
    if joined.gpu:
        return {"CPU": 1, "GPU": TRAIN_SHARE if cluster.share_gpu else 1}
    return {"CPU": min(1.0, ray.cluster_resources().get("CPU", 1.0) / (2 * cluster.train_workers))}
