"""Trainers that find no room or hang, and the desk where the driver leaves their jobs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from erpo_ray.cluster import training
from erpo_ray.cluster.desk import Desk
from erpo_ray.cluster.job import Job
from erpo_ray.cluster.start import Joined
from erpo_ray.cluster.training import Trainers
from erpo_ray.cluster.vigil import Hung, Vigil
from erpo_ray.config import Cluster
from erpo_ray.errors import EnvironmentFault, RunFailed
from erpo_ray.placement import Node

OWN = Cluster(rollout_workers=2, train_workers=2, share_gpu=False)


class Shrunk:
    """A cluster of so many nodes of one GPU at each look; also the event that ends the wait, at the look `parted`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, looks: list[int], parted: int = 99) -> None:
        self.looks, self.parted, self.now, self.said = looks, parted, 0.0, list[str]()
        monkeypatch.setattr(training, "machines", self.machines)
        monkeypatch.setattr(training, "say", self.said.append)
        monkeypatch.setattr(training.time, "monotonic", lambda: self.now)

    def machines(self) -> list[Node]:
        count = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return [Node(f"n{number}", 1) for number in range(count)]

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        self.parted -= 1
        return self.parted <= 0

    def fitting(self, cluster: Cluster, judges: int = 0, present: tuple[int, int] = (2, 1)) -> Cluster:
        event: Any = self
        joined = Joined(True, 4, None, cluster.wait_s > 0)
        return Trainers(cluster, joined, judges, (16,), lambda: present)._fitting(event)


def test_trainers_ask_for_half_of_the_cpus_there_are_when_they_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes may have gone since the run joined."""
    cluster, joined = Cluster(train_workers=2), Joined(False, 3, None)
    for left, each in ((6.0, 1.0), (3.0, 0.75), (1.0, 0.25)):
        monkeypatch.setattr(training.ray, "cluster_resources", lambda left=left: {"CPU": left})
        assert training._resources(cluster, joined) == {"CPU": each}


def test_a_fixed_number_of_trainers_without_room_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        EnvironmentFault,
        match=r"^no room to train: cluster.train_workers=2: room for 1 on the nodes \(3 nodes of 1 GPU\); bring nodes "
        "back and start the same command again$",
    ):
        Shrunk(monkeypatch, [3]).fitting(OWN)


def test_trainers_wait_for_room_as_long_as_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = OWN.model_copy(update={"wait_s": 60.0})
    shrunk = Shrunk(monkeypatch, [3, 3, 3, 4])
    assert shrunk.fitting(waiting) == waiting
    assert shrunk.now == 15.0 and len(shrunk.said) == 1
    assert shrunk.said[0].startswith("training waits up to 60 s for room: cluster.train_workers=2: room for 1")
    shrunk = Shrunk(monkeypatch, [3])
    with pytest.raises(EnvironmentFault, match=r"\(3 nodes of 1 GPU\) after 60 s; bring nodes back"):
        shrunk.fitting(waiting)
    assert shrunk.now == 60.0


def test_a_run_that_ends_waits_for_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    shrunk = Shrunk(monkeypatch, [3], parted=2)
    with pytest.raises(RunFailed, match="the run ended before there was room to train"):
        shrunk.fitting(OWN.model_copy(update={"wait_s": 60.0}))
    assert shrunk.now == 10.0


def test_training_goes_on_without_workers_whose_node_went(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Shrunk(monkeypatch, [3]).fitting(OWN, present=(1, 1)) == OWN.model_copy(update={"rollout_workers": 1})
    judged = OWN.model_copy(update={"judge_workers": 2})
    assert Shrunk(monkeypatch, [5]).fitting(judged, judges=2, present=(2, 1)) == judged
    with pytest.raises(EnvironmentFault, match="room for 1"):
        Shrunk(monkeypatch, [5]).fitting(judged, judges=2, present=(2, 2))


async def _take(desk: Desk, number: int, *ranks: int) -> list[Any]:
    return [await desk.take(number, rank, 2) for rank in ranks]


async def _jobs() -> None:
    desk = Desk()
    jobs: list[Any] = ["zero", "one", "two"]
    for job in jobs:
        await desk.leave(job)
    assert await desk.begin() == 0
    assert await _take(desk, 0, 0, 1) == ["zero"] * 2
    await desk.finish({"loss": 1.0})
    # Rank 1 has yet to ask for the next one: it may still be at work on the first.
    assert await _take(desk, 1, 0) == ["one"]
    assert sorted(desk._jobs) == [0, 1, 2]
    assert await _take(desk, 1, 1) == ["one"]
    assert sorted(desk._jobs) == [1, 2]
    # It is further than rank 0, whose job has no metrics, when both are started again.
    assert await _take(desk, 2, 1) == ["two"]
    assert await desk.begin() == 1
    assert await _take(desk, 1, 0) == ["one"]
    await desk.finish({"loss": 2.0})
    assert await _take(desk, 2, 0) == ["two"]
    assert await _take(desk, 1, 1) == ["one"]
    assert await _take(desk, 2, 1) == ["two"]
    assert sorted(desk._jobs) == [2]
    assert [await desk.result(number) for number in (0, 1)] == [{"loss": 1.0}, {"loss": 2.0}]


def test_a_job_is_kept_until_all_ranks_are_done_with_it() -> None:
    asyncio.run(_jobs())


class Hanging:
    """Worker groups, one after another, that hang once this step is done; None: it ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *steps: int | None, killed: bool = True) -> None:
        self.steps, self.killed, self.kills, self.said = list(steps), killed, 0, list[str]()
        monkeypatch.setattr(Trainers, "start", lambda trainers, storage: self)
        monkeypatch.setattr(training, "say", self.said.append)

    def do(self, job: Job, vigil: Vigil) -> dict[str, float]:
        step = self.steps.pop(0)
        if step is not None:
            raise Hung("rank 1 gave no sign for 121 s", step)
        return {"steps": 6.0}

    def kill(self) -> bool:
        self.kills += 1
        return self.killed

    def train(self, work: Path) -> dict[str, float]:
        trainers = Trainers(OWN, Joined(True, 4, None, False), 0, (16,), lambda: (2, 1))
        return trainers.train(Job(work, work, Any, work, work), lambda *_: None)  # type: ignore[arg-type]


def test_a_training_that_hangs_is_begun_again_by_other_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = Hanging(monkeypatch, 2, 2, 4, 4, None)
    assert hanging.train(tmp_path) == {"steps": 6.0}
    assert hanging.kills == len(hanging.said) == 4
    assert hanging.said[0] == (
        "training hung, its workers were ended and others take their place: rank 1 gave no sign for 121 s"
    )


def test_a_training_that_hangs_again_and_again_at_a_step_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = Hanging(monkeypatch, 0, 2, 1, 2)
    with pytest.raises(
        RunFailed, match="training hung 3 times without a further step, the last: rank 1 gave no sign for 121 s"
    ):
        hanging.train(tmp_path)
    assert (hanging.kills, hanging.steps) == (4, [])


def test_workers_that_cannot_be_ended_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = Hanging(monkeypatch, 2, killed=False)
    with pytest.raises(RunFailed, match="training hung 1 times .*start the same command again"):
        hanging.train(tmp_path)
