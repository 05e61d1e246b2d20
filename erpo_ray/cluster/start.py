"""Joining a Ray cluster, or starting one on this machine, and what it offers."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray

from erpo_ray.cluster.doors import shut
from erpo_ray.cluster.workers import cores
from erpo_ray.config import Cluster
from erpo_ray.errors import EnvironmentFault
from erpo_ray.placement import Infeasible, Need, Node, bundles, least, needs, place

_OBJECT_STORE = 200 * 2**20
"""Bytes: what passes between workers is token ids and texts; weights pass through files."""
_LONGEST_TEMP = 25
"""Characters: Ray's unix sockets lie up to 64 below its folder, which lies 18 below this, and 107 is the limit."""

LOOK_S = 5.0
"""Between two looks at a cluster that grows."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What the cluster has: `gpu` says whether to use GPUs; `own` is the folder of a cluster we started.

    `asked`: the autoscaler was told what the run needs, and keeps that in mind until `leave`.
    """

    gpu: bool
    nodes: int
    own: Path | None
    asked: bool = False


def join(cluster: Cluster, judges: int = 0, policy: bool = True) -> Joined:
    """Connect to `cluster.address`, to the cluster of this job (RAY_ADDRESS), or start a local one.

    `judges` is the number of judge workers that take a GPU where GPUs are used; without `policy` nothing but they work.
    Raises EnvironmentFault when the cluster cannot be reached, or lacks the GPUs that the settings need.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # By environment: importing Ray Data takes a second that the first engine need not wait for.
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
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
    try:
        return _found(cluster, judges, policy, own)
    except BaseException:
        if own:
            leave(Joined(False, 0, own))
        raise


def _found(cluster: Cluster, judges: int, policy: bool, own: Path | None) -> Joined:
    """What there is, once there is enough of it."""
    resources = ray.cluster_resources()
    gpu = resources.get("GPU", 0) > 0 if cluster.gpu is None else cluster.gpu
    wanted, enough = (needs(some, judges, policy, gpu) for some in (cluster, least(cluster)))
    asked = _require_room(cluster, wanted, enough, own is not None)
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    return Joined(gpu, nodes, own, asked)


def leave(joined: Joined) -> None:
    """Disconnect; a cluster we started ends, and its folder goes."""
    if joined.asked and ray.is_initialized():
        # What was asked for would keep its machines for ever.
        _ask_for(())
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
        # Ray opens its own folder to everybody; the one around it is ours alone.
        with shut() as address:
            ray.init(
                address="local",
                num_cpus=max(2, cores()),
                object_store_memory=_OBJECT_STORE,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
                _temp_dir=str(folder / "ray"),
                _node_ip_address=address,
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


def _require_room(cluster: Cluster, wanted: Sequence[Need], enough: Sequence[Need], own: bool) -> bool:
    """As many workers as are enough fit, once the cluster has grown for them if it does so within `cluster.wait_s`.

    True when it was asked to grow: or to stay as it is, since machines that training has yet to use look idle.
    """
    waited = 0.0 if own else cluster.wait_s
    if not waited:
        _await_room(enough, 0.0)
        return False
    try:
        _ask_for(wanted)
        _await_room(enough, waited)
    except BaseException:
        # Ctrl-C too: what was asked for would keep its machines for ever.
        _ask_for(())
        raise
    return True


def _await_room(enough: Sequence[Need], waited: float) -> None:
    until = time.monotonic() + waited
    while lack := _lack(enough):
        if time.monotonic() >= until:
            after = f" after {waited:.0f} s" if waited else ""
            raise EnvironmentFault(
                f"{lack}{after}; ask for fewer workers, add nodes (with cluster.wait_s a run waits for a cluster that "
                "grows), or set cluster.gpu=false"
            )
        time.sleep(min(LOOK_S, waited))


def machines() -> list[Node]:
    """The nodes that are alive; two raylets of one machine are two."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    return [
        Node(f"{node['NodeManagerHostname']}/{number}", int(node["Resources"].get("GPU", 0)), node.get("Labels", {}))
        for number, node in enumerate(alive)
    ]


def _lack(wanted: Sequence[Need]) -> str:
    """Why the workers do not fit on the nodes there are; empty when they do."""
    try:
        place(machines(), wanted)
    except Infeasible as error:
        return str(error)
    return ""


def _ask_for(wanted: Sequence[Need]) -> None:
    """Tell the autoscaler what the run needs, until it is told something else."""
    from ray.autoscaler.sdk import request_resources

    each = [need for need in bundles(wanted) for _ in range(need.count)]
    request_resources(bundles=[{"GPU": n.gpus} for n in each], bundle_label_selectors=[dict(n.labels) for n in each])
