"""Actors of real Ray that do not come up: engines, judges, trainers. What they do is nothing, and quickly done."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError

from erpo_ray.cluster import crew, start, training
from erpo_ray.cluster.backend import RayBackend
from erpo_ray.cluster.canary import Served
from erpo_ray.cluster.crew import RayCrew
from erpo_ray.cluster.start import Joined, join, leave
from erpo_ray.cluster.workers import RolloutWorker
from erpo_ray.config import Cluster, Config
from erpo_ray.errors import EnvironmentFault, RunFailed
from erpo_ray.types import Policy

CONFIG = Config(cluster=Cluster(rollout_workers=2, judge_workers=2))


class Idle(RolloutWorker):
    """Does not start while a file `broken` lies beside the weights."""

    def __init__(self, policy: Policy, config: Config, gpu: bool, share: int, wait: bool = False) -> None:
        if (policy.path / "broken").exists():
            raise ValueError("no start with this file")
        self._policy, self._started = policy, None

    def begin(self, seed: int) -> None: ...

    def load(self, policy: Policy) -> None:
        self._policy = policy

    def served(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> Served:
        return Served(self._policy.version, ())


class Reader:
    """A judge worker that only knows where the trainer's numbers come from."""

    def __init__(self, config: Config, gpu: bool = False) -> None: ...

    def judge(self, items: Sequence[Any]) -> list[Any]:
        return []

    def logprobs(self, model_dir: Path, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> list[float]:
        return [-1.0] * len(completion_ids)


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path(__file__).parent
    inherited = [here, here.parents[1], os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, inherited)))
    monkeypatch.setattr(crew, "RolloutWorker", Idle)
    monkeypatch.setattr(crew, "JudgeWorker", Reader)


@pytest.fixture
def joined(idle: None) -> Iterator[Joined]:
    found = join(CONFIG.cluster)
    try:
        yield found
    finally:
        leave(found)


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return Policy(tmp_path, "v")


def _killed(worker: Any, call: str, argument: object) -> None:
    """Killed, and known to be: Ray kills when it comes to it."""
    ray.kill(worker)
    with pytest.raises(RayActorError):
        while True:
            ray.get(getattr(worker, call).remote(argument))


def _versions(workers: RayCrew) -> list[str]:
    return [each.version for each in workers.served((1,), (2,))]


def test_an_engine_that_fails_to_start_in_anothers_place_stops_nothing_while_others_serve(
    joined: Joined, policy: Policy, capsys: pytest.CaptureFixture[str]
) -> None:
    workers = RayCrew(CONFIG, joined)
    workers.serve(policy)
    assert _versions(workers) == ["v", "v"]
    broken = policy.path / "broken"
    broken.touch()
    _killed(workers._rollout[0], "begin", 0)
    for _ in range(4):
        assert _versions(workers) == ["v"]
        ray.wait([*workers._starting.values()], timeout=60)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("rollout worker 0 was lost at")]
    assert len(said) == 4 and all("no start with this file" in line for line in said[1:])
    broken.unlink()
    assert _versions(workers) == ["v"]
    ray.wait([*workers._starting.values()], timeout=60)
    assert _versions(workers) == ["v", "v"] and workers.begin(1) == set()
    # Without any that serves, three starts are enough to know.
    broken.touch()
    for worker in workers._rollout:
        _killed(worker, "begin", 0)
    with pytest.raises(RunFailed, match="a worker failed: .*no start with this file"):
        _versions(workers)


def test_an_engine_that_fails_to_start_in_the_first_place_stops_the_run(joined: Joined, policy: Policy) -> None:
    (policy.path / "broken").touch()
    workers = RayCrew(CONFIG, joined)
    workers.serve(policy)
    with pytest.raises(RunFailed, match="a worker failed: .*no start with this file"):
        _versions(workers)
    assert workers._replaced == 0


def test_another_judge_reads_the_weights_where_the_first_never_comes_back(joined: Joined, policy: Policy) -> None:
    workers = RayCrew(CONFIG, joined)
    assert workers.trainer_logprobs(policy, (1,), (2, 3))() == [-1.0, -1.0]
    gone = CONFIG.cluster.model_copy(update={"judge_labels": {"erpo-role": "gone"}})
    workers._config = CONFIG.model_copy(update={"cluster": gone})
    _killed(workers._judge[0], "judge", ())
    for _ in range(2):
        assert workers.trainer_logprobs(policy, (1,), (2, 3))() == [-1.0, -1.0]
        assert workers.present() == (2, 1)


def test_a_backend_is_closed_once(idle: None) -> None:
    backend = RayBackend(CONFIG)
    for _ in range(2):
        backend.close()
        assert not ray.is_initialized()


def test_trainers_that_never_start_are_told(joined: Joined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "2")
    monkeypatch.setattr(training, "_STARTS", 2)
    nowhere = CONFIG.cluster.model_copy(update={"train_labels": {"erpo-role": "gone"}})
    with pytest.raises(
        EnvironmentFault,
        match="^training failed: The worker group startup timed out after 2.0 seconds waiting for 1 workers; "
        "`ray status` shows what its workers wait for; bring nodes back and start the same command again$",
    ):
        training._fit(training.trainer(nowhere, joined, tmp_path, None))


@pytest.fixture
def two_gpus(idle: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Joined]:
    """A cluster that is told of two GPUs."""
    monkeypatch.setattr(start.ray, "init", partial(ray.init, num_gpus=2))
    found = join(CONFIG.cluster)
    try:
        yield found
    finally:
        leave(found)


def test_where_no_engine_is_up_yet_each_holds_its_gpu_before_trainers_come(two_gpus: Joined, policy: Policy) -> None:
    """Of two trainers that follow each has a GPU of its own, as engines and trainers would have it that took turns."""
    workers = RayCrew(CONFIG, two_gpus)
    workers.sleep(policy)

    class Trainer:
        def gpu(self) -> list[int]:
            return ray.get_gpu_ids()

    # Without engines in their places both would have the first one.
    trainers = [ray.remote(num_gpus=crew.TRAIN_SHARE, num_cpus=0)(Trainer).remote() for _ in range(2)]
    assert sorted(ray.get([each.gpu.remote() for each in trainers])) == [[0], [1]]
    workers.serve(Policy(policy.path, "later"))
    assert _versions(workers) == ["later", "later"]
    workers.close()


def test_an_engine_that_is_starting_when_trainers_come_waits_with_its_start(two_gpus: Joined, policy: Policy) -> None:
    workers = RayCrew(CONFIG, two_gpus)
    workers.serve(policy)
    assert _versions(workers) == ["v", "v"]
    workers.replace_rollout(1)
    starting = workers._rollout[1]
    workers.sleep(policy)
    assert workers._rollout[1] is not starting
    ray.wait([*workers._starting.values()], timeout=60)
    workers.serve(Policy(policy.path, "later"))
    assert _versions(workers) == ["later", "later"]
    workers.close()
