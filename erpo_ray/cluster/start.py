"""Joining a Ray cluster, or starting one on this machine, and what it offers."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray

from erpo_ray.cluster.workers import cores
from erpo_ray.config import Cluster
from erpo_ray.errors import EnvironmentFault

_OBJECT_STORE = 200 * 2**20
"""Bytes: what passes between workers is token ids and texts; weights pass through files."""
_LONGEST_TEMP = 40
"""Characters: Ray puts unix sockets below its folder, and their paths may not exceed 107."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What the cluster has: `gpu` says whether to use GPUs; `own` is the folder of a cluster we started."""

    gpu: bool
    nodes: int
    cpus: float
    own: Path | None


def join(cluster: Cluster, judges: int = 0, policy: bool = True) -> Joined:
    """Connect to `cluster.address`, to the cluster of this job (RAY_ADDRESS), or start a local one.

    `judges` is the number of judge workers that take a GPU where GPUs are used; without `policy` nothing but they work.
    Raises EnvironmentFault when the cluster cannot be reached, or lacks the GPUs that the settings need.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray says at each start that token authentication is on, as it should be.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    own = None
    if not ray.is_initialized():
        with _handlers_kept():
            own = _local() if not (cluster.address or os.environ.get("RAY_ADDRESS")) else _remote(cluster.address)
    # The terminal has progress bars of our own; that Ray's are off is not worth a warning.
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    gpu = gpus > 0 if cluster.gpu is None else cluster.gpu
    if gpu:
        _require_gpus(cluster, judges, policy, gpus)
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    return Joined(gpu, nodes, resources.get("CPU", 1.0), own)


def leave(joined: Joined) -> None:
    """Disconnect; a cluster we started ends, and its folder goes."""
    ray.shutdown()
    if joined.own:
        shutil.rmtree(joined.own, ignore_errors=True)


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray's start takes SIGTERM for itself, and would end a run with it before the run could say how it ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _local() -> Path:
    base = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="erpo-", dir=base if len(base) <= _LONGEST_TEMP else "/tmp"))
    try:
        ray.init(
            address="local",
            num_cpus=max(2, cores()),
            object_store_memory=_OBJECT_STORE,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            _temp_dir=str(folder),
        )
    except Exception as error:
        # Ray has no class of its own for this: it gives its processes half a minute, which a busy machine exceeds.
        shutil.rmtree(folder, ignore_errors=True)
        raise EnvironmentFault(
            f"Ray did not start on this machine: {error} If other work keeps it busy, start the same command again"
        ) from error
    return folder


def _remote(address: str) -> None:
    try:
        ray.init(address=address or None, log_to_driver=False, logging_level=logging.WARNING)
    except ConnectionError as error:
        where = address or f"RAY_ADDRESS ({os.environ['RAY_ADDRESS']})"
        raise EnvironmentFault(
            f"no Ray cluster answers at {where}; start it, or leave cluster.address empty"
        ) from error


def _require_gpus(cluster: Cluster, judges: int, policy: bool, found: int) -> None:
    needed, takers = judges, []
    if policy:
        workers = cluster.rollout_workers, cluster.train_workers
        needed += max(workers) if cluster.share_gpu else sum(workers)
        takers.append(
            f"cluster.rollout_workers={cluster.rollout_workers} and cluster.train_workers={cluster.train_workers} with "
            f"cluster.share_gpu={str(cluster.share_gpu).lower()}"
        )
    if judges:
        takers.append(f"a model for each of {judges} judge workers")
    if needed > found:
        raise EnvironmentFault(
            f"{' and '.join(takers)} need {needed} GPUs, the cluster has {found}; "
            "ask for fewer workers, add nodes, or set cluster.gpu=false"
        )
