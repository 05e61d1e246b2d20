"""A Ray cluster of several raylets on this machine, whose processes can be killed one by one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import psutil

SAMPLERS, JUDGES = ("ray::Sampler", "ray::Hasty", "ray::Lasting"), ("ray::Weigher",)


class Raylets:
    """A head, with GCS, and further nodes. Each claims two CPUs and three GPUs, which engines by rote do not need."""

    def __init__(self, nodes: int = 2, store_bytes: int = 2**27, spill: Path | None = None) -> None:
        from ray.cluster_utils import Cluster

        here = Path(__file__).parent
        sources = [str(here), str(here.parent / "unit"), str(here.parents[1])]
        # Workers, and drivers that are forked, import what these tests are made of.
        os.environ["PYTHONPATH"] = os.pathsep.join([*sources, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._size: dict[str, Any] = {"num_cpus": 2, "num_gpus": 3, "object_store_memory": store_bytes}
        more = {"object_spilling_directory": str(spill)} if spill else {}
        self.cluster = Cluster(initialize_head=True, head_node_args={**self._size, **more, "include_dashboard": False})
        self.others = [self.cluster.add_node(**self._size) for _ in range(nodes - 1)]

    @property
    def address(self) -> str:
        return self.cluster.address or ""

    def add(self) -> None:
        """Another node."""
        self.others.append(self.cluster.add_node(**self._size))

    def kill(self, node: Any) -> None:
        """SIGKILL for its raylet; what ran there dies of that."""
        os.kill(_pid(node, "raylet"), signal.SIGKILL)
        if node in self.others:
            self.others.remove(node)

    def kill_head(self) -> None:
        """SIGKILL for raylet and GCS of the head."""
        head = self.cluster.head_node
        for name in ("gcs_server", "raylet"):
            os.kill(_pid(head, name), signal.SIGKILL)

    def actors(self, titles: tuple[str, ...] = SAMPLERS, node: Any = None) -> list[int]:
        """Pids of actors with titles that begin so, those that start among them."""
        nodes = [node] if node else [self.cluster.head_node, *self.others]
        found = [child for node in nodes for child in _children(_pid(node, "raylet"))]
        return sorted(child.pid for child in found if _title(child).startswith(titles))

    def preempt(self, node: Any, deadline_s: float) -> None:
        """Tell Ray that the node will go, as a provider's notice does; at the deadline it does."""
        from ray._raylet import GcsClient
        from ray.core.generated import autoscaler_pb2

        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        until = int((time.time() + deadline_s) * 1000)
        accepted, why = GcsClient(address=self.address).drain_node(node.node_id, reason, "called in", until)
        assert accepted, why

    def free(self) -> bool:
        """Whether nothing that living nodes offer is taken."""
        state = self.cluster.global_state
        nodes = {node["NodeID"]: node["Resources"] for node in state.node_table() if node["Alive"]}
        available = state.available_resources_per_node()
        return all(
            available.get(name, {}).get(kind) == has[kind] for name, has in nodes.items() for kind in ("CPU", "GPU")
        )

    def alive(self) -> int:
        """Nodes that Ray takes for alive."""
        return sum(node["Alive"] for node in self.cluster.global_state.node_table())

    def close(self) -> None:
        """End all processes that are left."""
        for node in [*self.cluster.worker_nodes, *filter(None, [self.cluster.head_node])]:
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        self.cluster.worker_nodes.clear()
        self.cluster.head_node = None


@contextmanager
def raylets(**settings: Any) -> Iterator[Raylets]:
    found = Raylets(**settings)
    try:
        yield found
    finally:
        found.close()


def until(true: Callable[[], bool], what: str, seconds: float = 300.0) -> float:
    """Seconds until it is true."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < seconds, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)
    return time.monotonic() - begun


def sigkill_one(random: Random, pids: list[int]) -> bool:
    """End one of these processes; False when there is none."""
    if not pids:
        return False
    try:
        os.kill(random.choice(pids), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _pid(node: Any, name: str) -> int:
    return node.all_processes[name][0].process.pid


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
