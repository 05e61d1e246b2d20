"""One stage's training under Ray Train: 1..n workers, gloo on CPU, NCCL on GPUs. `job` holds what they do."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from erpo_ray.cluster import data
from erpo_ray.cluster.crew import TRAIN_SHARE
from erpo_ray.cluster.job import Job, Progress, train
from erpo_ray.cluster.start import Joined
from erpo_ray.config import Cluster
from erpo_ray.errors import RunFailed

_PROGRESS_FILE = "progress.json"
_POLL_S = 1.0
_LAST_LINES = 3


def launch(job: Job, cluster: Cluster, joined: Joined, progress: Progress) -> dict[str, float]:
    """Train and return the metrics of rank 0. RunFailed with the cause's last lines when a worker fails.

    Each launch has a Ray Train name of its own: Ray Train would take a known name for a run to resume. Checkpoints are
    the trainer's, in `job.work`.
    """
    from ray.train import DataConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        _loop,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=cluster.train_workers,
            use_gpu=joined.gpu,
            resources_per_worker=_resources(cluster, joined),
        ),
        run_config=RunConfig(name=f"{job.out.name.strip('.')}-{uuid.uuid4().hex[:12]}", storage_path=str(job.work)),
        datasets={"train": data.artefact(job.rows)},
        # Every rank sees all rows; the sampler of the trainer gives each its part.
        dataset_config=DataConfig(datasets_to_split=[]),
    )
    with _watch(job.work / _PROGRESS_FILE, progress):
        return _fit(trainer)


def _fit(trainer: Any) -> dict[str, float]:
    from ray.train import TrainingFailedError, WorkerGroupError

    try:
        return trainer.fit().return_value
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


def _loop(config: dict[str, Any]) -> dict[str, float]:
    """What every rank runs."""
    from ray import train as ray_train

    job: Job = config["job"]
    context = ray_train.get_context()
    report = _reporter(job.work / _PROGRESS_FILE) if context.get_world_rank() == 0 else None
    shard: Any = ray_train.get_dataset_shard("train")
    return train(job, data.rows(shard, job.kind, job.rows), report)


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
