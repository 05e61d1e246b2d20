"""Which worker goes on which node, and whether all of them fit: decided before anything boots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from erpo_ray.config import Cluster


@dataclass(frozen=True, slots=True)
class Node:
    """A machine: its name for messages, whole GPUs, labels."""

    name: str
    gpus: int
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Need:
    """Workers of one role: how many, GPUs that each takes on one node (or none), labels of nodes they may run on.

    `shares`: of each GPU it takes the role leaves room for one worker of another role that shares too.
    """

    role: str
    count: int
    gpus: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)
    shares: bool = False


class Infeasible(Exception):
    """The workers do not fit; the message says which, what they need and what there is."""


def needs(cluster: Cluster, judges: int, policy: bool = True, gpu: bool = True) -> list[Need]:
    """What a run asks of nodes: of their GPUs, or with `gpu` off of their labels alone.

    `judges` is the number of judge workers that take a GPU; without `policy` there are no others than judges.
    """
    each = int(gpu)
    out = [Need("judge", judges or cluster.judge_workers, each if judges else 0, cluster.judge_labels)]
    if policy:
        share = cluster.share_gpu
        out.append(Need("rollout", cluster.rollout_workers, each, cluster.rollout_labels, share))
        out.append(Need("train", cluster.train_workers, each, cluster.train_labels, share))
    return out


def least(cluster: Cluster) -> Cluster:
    """The same with the fewest training workers that it allows."""
    return cluster.model_copy(update={"train_workers": cluster.train_workers_min or cluster.train_workers})


def elastic(nodes: Sequence[Node], cluster: Cluster, judges: int, batches: Sequence[int], gpu: bool = True) -> Cluster:
    """The same with the most training workers that it allows, that have room beside all others and that share each of
    the batches evenly. Raises Infeasible when not even the fewest have room, or the fixed number has none."""
    fewest = least(cluster)
    for count in range(cluster.train_workers, fewest.train_workers, -1):
        wanted = cluster.model_copy(update={"train_workers": count})
        if all(size % count == 0 for size in batches):
            with suppress(Infeasible):
                place(nodes, needs(wanted, judges, gpu=gpu))
                return wanted
    place(nodes, needs(fewest, judges, gpu=gpu))
    return fewest


def bundles(wanted: Sequence[Need]) -> list[Need]:
    """The needs that GPUs have to be there for: of roles that share GPUs of the same labels the largest one."""
    largest: dict[object, Need] = {}
    for number, need in enumerate(wanted):
        key = tuple(sorted(need.labels.items())) if need.shares else number
        if need.gpus and (key not in largest or largest[key].count < need.count):
            largest[key] = need
    return list(largest.values())


def place(nodes: Sequence[Node], wanted: Sequence[Need]) -> dict[str, dict[str, int]]:
    """Workers of each role on each node: {role: {node: workers}}. Raises Infeasible.

    Roles with the least choice come first, those that take most GPUs before others, whole GPUs before shared ones;
    workers spread over the nodes with most room. No two workers of one role share a GPU. For workers of one GPU, and
    labels of which one set contains the other or that have no node in common, this finds a placement if there is one.
    """
    taken: dict[str, list[set[str]]] = {node.name: [set() for _ in range(node.gpus)] for node in nodes}
    alone = {need.role for need in wanted if not need.shares}
    out: dict[str, dict[str, int]] = {}
    for need in sorted(wanted, key=lambda need: (_offered(nodes, need), -need.gpus, need.shares)):
        found: Counter[str] = Counter()
        for _ in range(need.count):
            free = {
                node.name: [
                    gpu
                    for gpu, roles in enumerate(taken[node.name])
                    if not roles or (need.shares and need.role not in roles and not roles & alone)
                ]
                for node in _allowed(nodes, need)
            }
            fitting = [name for name in free if len(free[name]) >= need.gpus]
            if not fitting:
                raise Infeasible(_why(nodes, need, sum(found.values())))
            # A GPU that is begun is filled before a fresh one is; what takes none goes round.
            name = max(fitting, key=lambda name: (_begun(taken[name], free[name]), len(free[name])))
            if not need.gpus:
                name = min(fitting, key=lambda name: found[name])
            for gpu in sorted(free[name], key=lambda gpu: not taken[name][gpu])[: need.gpus]:
                taken[name][gpu].add(need.role)
            found[name] += 1
        out[need.role] = dict(found)
    return out


def _begun(roles: Sequence[set[str]], free: Sequence[int]) -> bool:
    return any(roles[gpu] for gpu in free)


def _allowed(nodes: Sequence[Node], need: Need) -> list[Node]:
    return [node for node in nodes if need.labels.items() <= node.labels.items()]


def _offered(nodes: Sequence[Node], need: Need) -> int:
    return sum(node.gpus for node in _allowed(nodes, need))


def _why(nodes: Sequence[Node], need: Need, placed: int) -> str:
    who = f"cluster.{need.role}_workers={need.count}"
    where = ", ".join(f"{key}={value}" for key, value in need.labels.items())
    allowed = _allowed(nodes, need)
    if not allowed:
        return f"{who}: no node has the label {where} (cluster.{need.role}_labels)"
    largest = max(node.gpus for node in allowed)
    if need.gpus > max(1, largest):
        return f"{who} needs {need.gpus} GPUs on one node; the largest node has {largest}"
    among = f" with the label {where}" if where else ""
    shape = ", ".join(f"{_some(count, 'node')} of {_some(gpus, 'GPU')}" for gpus, count in sorted(_sizes(allowed)))
    each = "" if need.gpus == 1 else f" of {need.gpus} GPUs"
    return f"{who}{each}: room for {placed} on the nodes{among} ({shape})"


def _sizes(nodes: Sequence[Node]) -> list[tuple[int, int]]:
    return list(Counter(node.gpus for node in nodes).items())


def _some(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
