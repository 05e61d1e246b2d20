"""Which worker goes where, and what is said of workers that do not fit."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erpo_ray.cluster import start
from erpo_ray.config import Cluster
from erpo_ray.errors import EnvironmentFault, Interrupted
from erpo_ray.placement import Infeasible, Need, Node, bundles, elastic, least, needs, place

SPOT, OWN = {"erpo-role": "rollout"}, {"erpo-role": "train"}


def test_workers_that_take_turns_share_gpus_one_of_each_role() -> None:
    cluster = Cluster(rollout_workers=8, train_workers=8)
    found = place([Node("a", 4), Node("b", 4)], needs(cluster, 0))
    assert found == {"rollout": {"a": 4, "b": 4}, "train": {"a": 4, "b": 4}, "judge": {"a": 1}}
    with pytest.raises(Infeasible):
        place([Node("a", 7)], needs(cluster, 0))


def test_workers_of_their_own_gpus_add_up() -> None:
    cluster = Cluster(rollout_workers=2, train_workers=1, share_gpu=False)
    assert place([Node("a", 3)], needs(cluster, 0)) == {
        "rollout": {"a": 2},
        "train": {"a": 1},
        "judge": {"a": 1},
    }
    with pytest.raises(Infeasible, match=r"cluster.train_workers=1: room for 0 on the nodes \(1 node of 2 GPUs\)"):
        place([Node("a", 2)], needs(cluster, 0))


def test_a_machine_without_gpus_has_room_for_none() -> None:
    with pytest.raises(Infeasible, match=r"=2: room for 0 on the nodes \(1 node of 0 GPUs\)"):
        place([Node("a", 0)], needs(Cluster(share_gpu=False, rollout_workers=2), 0))


def test_a_judge_with_a_model_has_a_gpu_to_itself() -> None:
    wanted = needs(Cluster(), judges=1)
    assert place([Node("a", 2)], wanted) == {"judge": {"a": 1}, "rollout": {"a": 1}, "train": {"a": 1}}
    with pytest.raises(Infeasible):
        place([Node("a", 1)], wanted)
    assert place([Node("a", 1)], needs(Cluster(), judges=1, policy=False)) == {"judge": {"a": 1}}


def test_labels_bind_roles_to_nodes() -> None:
    cluster = Cluster(rollout_workers=2, train_workers=2, share_gpu=False, rollout_labels=SPOT, train_labels=OWN)
    nodes = [Node("head", 0), Node("s1", 1, SPOT), Node("s2", 1, SPOT), Node("t", 8, OWN)]
    assert place(nodes, needs(cluster, 0)) == {
        "rollout": {"s1": 1, "s2": 1},
        "train": {"t": 2},
        "judge": {"head": 1},
    }
    with pytest.raises(
        Infeasible, match=r"=2: room for 1 on the nodes with the label erpo-role=rollout \(1 node of 1 GPU\)"
    ):
        place([nodes[1], nodes[3]], needs(cluster, 0))
    with pytest.raises(Infeasible, match=r"no node has the label erpo-role=train \(cluster.train_labels\)"):
        place(nodes[:3], needs(cluster, 0))


def test_a_role_without_labels_leaves_the_labelled_nodes_to_those_that_need_them() -> None:
    wanted = [Need("rollout", 2), Need("train", 1, labels=OWN)]
    assert place([Node("t", 1, OWN), Node("a", 2)], wanted) == {"train": {"t": 1}, "rollout": {"a": 2}}


def test_gpus_of_one_worker_lie_on_one_node() -> None:
    wanted = [Need("rollout", 1, gpus=4)]
    assert place([Node("a", 2), Node("b", 4)], wanted) == {"rollout": {"b": 1}}
    with pytest.raises(Infeasible, match="cluster.rollout_workers=1 needs 4 GPUs on one node; the largest node has 2"):
        place([Node("a", 2), Node("b", 2)], wanted)
    with pytest.raises(
        Infeasible, match=r"=2 of 4 GPUs: room for 1 on the nodes \(1 node of 3 GPUs, 1 node of 4 GPUs\)"
    ):
        place([Node("a", 4), Node("b", 3)], [Need("rollout", 2, gpus=4)])


def test_without_gpus_only_labels_count() -> None:
    cluster = Cluster(rollout_workers=3, rollout_labels=SPOT)
    nodes = [Node("a", 0), Node("s1", 0, SPOT), Node("s2", 0, SPOT)]
    assert place(nodes, needs(cluster, 0, gpu=False))["rollout"] == {"s1": 2, "s2": 1}
    with pytest.raises(Infeasible, match="no node has the label erpo-role=rollout"):
        place(nodes[:1], needs(cluster, 0, gpu=False))


def test_a_growing_cluster_is_asked_once_for_gpus_that_two_roles_share() -> None:
    shared = Cluster(rollout_workers=4, train_workers=8)
    assert [(need.role, need.count) for need in bundles(needs(shared, 2))] == [("judge", 2), ("train", 8)]
    apart = Cluster(rollout_workers=4, train_workers=8, rollout_labels=SPOT, train_labels=OWN)
    assert [(need.role, need.count) for need in bundles(needs(apart, 0))] == [("rollout", 4), ("train", 8)]
    own = Cluster(rollout_workers=4, train_workers=8, share_gpu=False)
    assert [need.role for need in bundles(needs(own, 0))] == ["rollout", "train"]
    assert bundles(needs(shared, 0, gpu=False)) == []


ELASTIC = Cluster(rollout_workers=2, train_workers=8, train_workers_min=2, share_gpu=False)


@pytest.mark.parametrize(
    ("gpus", "batches", "trainers"),
    [
        (16, (16, 128), 8),  # room for all
        (10, (16, 128), 8),
        (9, (16, 128), 4),  # seven have room, but share no batch evenly
        (9, (14,), 7),
        (5, (16, 128), 2),
        (4, (16, 128), 2),
    ],
)
def test_elastic_trainers_are_as_many_as_have_room_and_share_batches(
    gpus: int, batches: tuple[int, ...], trainers: int
) -> None:
    found = elastic([Node("a", gpus)], ELASTIC, 0, batches)
    assert (found.train_workers, found.rollout_workers) == (trainers, 2)
    assert place([Node("a", gpus)], needs(found, 0))["train"] == {"a": trainers}


def test_fewer_trainers_than_the_fewest_are_none() -> None:
    with pytest.raises(Infeasible, match=r"cluster.train_workers=2: room for 1 on the nodes \(1 node of 3 GPUs\)"):
        elastic([Node("a", 3)], ELASTIC, 0, (16,))


def test_trainers_that_take_turns_with_engines_are_elastic_too() -> None:
    shared = Cluster(rollout_workers=2, train_workers=4, train_workers_min=1)
    assert [elastic([Node("a", n)], shared, 0, (8,)).train_workers for n in (2, 3, 4)] == [2, 2, 4]
    # Without GPUs all of them find room where one of the nodes has the labels.
    assert elastic([Node("a", 0)], shared, 0, (8,), gpu=False).train_workers == 4


def test_a_fixed_number_of_trainers_has_room_or_not() -> None:
    fixed = Cluster(train_workers=3)
    assert elastic([Node("a", 3)], fixed, 0, (16,)) == fixed == least(fixed)
    with pytest.raises(Infeasible, match=r"cluster.train_workers=3: room for 2 on the nodes \(1 node of 2 GPUs\)"):
        elastic([Node("a", 2)], fixed, 0, (16,))
    assert least(ELASTIC).train_workers == 2


class Growing:
    """A cluster that has room once it was looked at so often; `asked` are the GPUs it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, looks: int) -> None:
        self.looks, self.now, self.asked = looks, 0.0, []
        monkeypatch.setattr(start, "_lack", self.lack)
        monkeypatch.setattr(start, "_ask_for", lambda wanted: self.asked.append(sum(need.gpus for need in wanted)))
        monkeypatch.setattr(start.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(start.time, "sleep", self.sleep)

    def lack(self, wanted: object) -> str:
        self.looks -= 1
        return "no room" if self.looks >= 0 else ""

    def sleep(self, seconds: float) -> None:
        self.now += seconds


WANTED = [Need("rollout", 1)]


def test_a_run_waits_for_a_cluster_that_grows_and_has_asked_it_to(monkeypatch: pytest.MonkeyPatch) -> None:
    growing = Growing(monkeypatch, looks=3)
    assert start._require_room(Cluster(wait_s=60), WANTED, WANTED, own=False) is True
    assert (growing.now, growing.asked) == (15.0, [1])


def test_a_run_begins_with_what_is_enough_and_has_asked_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[object] = []
    growing = Growing(monkeypatch, looks=0)
    monkeypatch.setattr(start, "_lack", lambda wanted: looked.append(wanted) or "")
    enough = [Need("train", 2)]
    assert start._require_room(Cluster(wait_s=60), [Need("train", 8)], enough, own=False) is True
    assert looked == [enough] and growing.asked == [1]


def test_a_run_gives_up_when_the_time_is_over_and_takes_back_what_it_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    growing = Growing(monkeypatch, looks=99)
    with pytest.raises(EnvironmentFault, match="^no room after 12 s; ask for fewer workers, add nodes"):
        start._require_room(Cluster(wait_s=12), WANTED, WANTED, own=False)
    assert (growing.now, growing.asked) == (15.0, [1, 0])


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Interrupted("stopped by SIGTERM")])
def test_a_run_that_is_stopped_while_it_waits_takes_back_what_it_asked_for(
    monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    growing = Growing(monkeypatch, looks=99)

    def sleep(seconds: float) -> None:
        raise stop

    monkeypatch.setattr(start.time, "sleep", sleep)
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        start._require_room(Cluster(wait_s=60), WANTED, WANTED, own=False)
    assert growing.asked == [1, 0]


def test_a_cluster_of_its_own_ends_with_a_run_that_is_stopped_before_it_has_begun(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stopped() -> dict[str, float]:
        raise KeyboardInterrupt

    own, left = tmp_path / "own", list[bool]()
    own.mkdir()
    monkeypatch.setattr(start, "_local", lambda: own)
    monkeypatch.setattr(start.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(start.ray, "cluster_resources", stopped)
    monkeypatch.setattr(start.ray, "shutdown", lambda: left.append(True))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(KeyboardInterrupt):
        start.join(Cluster())
    assert left == [True] and not own.exists()


@pytest.mark.parametrize(("wait_s", "own"), [(0.0, False), (60.0, True)])
def test_without_time_or_on_a_cluster_of_its_own_a_run_asks_and_waits_for_nothing(
    monkeypatch: pytest.MonkeyPatch, wait_s: float, own: bool
) -> None:
    growing = Growing(monkeypatch, looks=1)
    with pytest.raises(EnvironmentFault, match="^no room; ask for fewer workers"):
        start._require_room(Cluster(wait_s=wait_s), WANTED, WANTED, own)
    assert start._require_room(Cluster(wait_s=wait_s), WANTED, WANTED, own) is False
    assert (growing.now, growing.asked) == (0.0, [])


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=3),
    st.integers(0, 4),
    st.integers(1, 4),
    st.integers(1, 4),
    st.booleans(),
)
def test_a_placement_is_found_exactly_when_there_is_room(
    gpus: list[int], judges: int, rollout: int, train: int, share: bool
) -> None:
    nodes = [Node(str(number), count) for number, count in enumerate(gpus)]
    wanted = needs(Cluster(rollout_workers=rollout, train_workers=train, share_gpu=share), judges)
    room = judges + (max(rollout, train) if share else rollout + train) <= sum(gpus)
    for order in permutations(wanted):
        if not room:
            with pytest.raises(Infeasible):
                place(nodes, order)
            continue
        found = place(nodes, order)
        assert {role: sum(where.values()) for role, where in found.items()} == {n.role: n.count for n in wanted}
        for node in nodes:
            on = {role: where.get(node.name, 0) for role, where in found.items()}
            assert max(on[role] for role in found if judges or role != "judge") <= node.gpus
            assert (on["judge"] if judges else 0) + (0 if share else on["rollout"] + on["train"]) <= node.gpus
