"""Real Ray with two raylets: actors, judges, nodes and the head are killed, calls fail, nodes are called in.

The driver is the product's own, down to RayBackend and pool; its engines answer by rote. Nothing that was acknowledged
is lost or drawn again, and pairs are those of an undisturbed run.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random

import msgspec
import pytest
from cluster_driver import Driver
from raylets import JUDGES, SAMPLERS, Raylets, raylets, sigkill_one, until
from rote_workers import Hasty, Lasting, Sampler
from rundir_driver import NoSync
from test_loop import run as play
from test_processes import made, small_disk  # noqa: F401

from erpo_ray.config import Cluster
from erpo_ray.rundir.lines import ledger_rows
from erpo_ray.types import Candidate

# One cluster at a time: two on a small machine would only wait for each other.
pytestmark = pytest.mark.xdist_group("cluster")

Scale = Callable[[int, int], int]
Promise = Callable[[str], None]
LOST = re.compile(r"^(?:rollout|judge) worker \d+ was lost.*: \S.*$", re.MULTILINE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run, without Ray."""
    place = tmp_path_factory.mktemp("whole")
    play(place, files=NoSync())
    return place


@pytest.fixture(scope="module")
def cluster() -> Iterator[Raylets]:
    with raylets() as found:
        yield found


@pytest.fixture(scope="module")
def spill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spill")


@pytest.fixture(scope="module")
def other(spill: Path) -> Iterator[Raylets]:
    """A cluster that comes after the first; its stores hold 80 MB."""
    with raylets(store_bytes=80 * 10**6, spill=spill) as found:
        yield found


class Run:
    """One run over as many drivers as it takes. Counts what was on disk and is not, or is asked for again."""

    def __init__(self, place: Path) -> None:
        place.mkdir()
        self.place, self.lost, self.doubled, self.said = place, 0, 0, ""
        self._stood: set[str] = set()

    def start(
        self, cluster: Raylets, environment: Mapping[str, str] | None = None, sampler: type[Sampler] = Sampler
    ) -> Driver:
        self._stood = set(self._candidates())
        settings = Cluster(
            address=cluster.address, gpu=True, share_gpu=False, rollout_workers=4, judge_workers=2, in_flight=8
        )
        return Driver(self.place, settings, environment, sampler)

    def ended(self, driver: Driver) -> int:
        """The driver's exit code, once it has ended."""
        code = driver.end()
        now, asked = self._candidates(), driver.asked
        self.lost += len(self._stood - set(now))
        self.doubled += len(self._stood & set(asked)) + len(asked) - len(set(asked)) + len(now) - len(set(now))
        self.said += driver.text
        return code

    def finish(self, cluster: Raylets, whole: Path, driver: Driver, seed: int) -> None:
        """To its end, with the same command again where that is what the driver asks for; all as undisturbed."""
        while code := self.ended(driver):
            assert "start the same command again" in driver.text, driver.text
            assert code == 1
            driver = self.start(cluster)
        assert (self.lost, self.doubled) == (0, 0), f"--seed {seed}"
        assert made(self.place) == made(whole), f"--seed {seed}"

    def drawing(self, more: int = 8) -> Callable[[], bool]:
        """Whether there are so many candidates more than now."""
        before = len(self._candidates())
        return lambda: len(self._candidates()) >= before + more

    def _candidates(self) -> list[str]:
        paths = self.place.glob("run/stages/*/*candidates.jsonl")
        return [row.id for path in paths for row in ledger_rows(path, Candidate)]


def test_killed_actors(
    cluster: Raylets, whole: Path, tmp_path: Path, scale: Scale, seed: int, promise: Promise
) -> None:
    """Rollout and judge actors at random times, those that start and those at rest among them."""
    random, wanted, kills, runs, told = Random(seed), scale(10, 100), 0, 0, 0
    while kills < wanted:
        run, runs = Run(tmp_path / str(runs)), runs + 1
        driver = run.start(cluster)
        until(run.drawing(1), "first candidate")
        while driver.process.is_alive() and kills < wanted:
            kills += sigkill_one(random, cluster.actors(SAMPLERS if random.random() < 0.7 else JUDGES))
            time.sleep(random.uniform(0, 3))
        run.finish(cluster, whole, driver, seed)
        told += len(LOST.findall(run.said))
    # Of a judge that dies at rest, and is asked nothing more, nobody tells.
    assert kills / 2 <= told <= kills
    free = until(cluster.free, "GPUs of killed actors are free")
    promise(
        f"SIGKILL of actors (real Ray): faults {kills}  lost 0  doubled 0  pairs equal yes  "
        f"free again after {free:.1f} s"
    )


def test_failed_calls(cluster: Raylets, whole: Path, tmp_path: Path, scale: Scale, seed: int, promise: Promise) -> None:
    """What a driver calls: it fails before it is sent, while it is under way, or when the answer comes."""
    calls = {
        "CoreWorkerService.grpc_client.PushTask": 4,
        "ray::rpc::ActorInfoGcsService.grpc_client.RegisterActor": 2,
        "ray::rpc::ActorInfoGcsService.grpc_client.CreateActor": 2,
        "ray::rpc::ActorInfoGcsService.grpc_client.GetActorInfo": 2,
        "ray::rpc::ActorInfoGcsService.grpc_client.KillActorViaGcs": 2,
        "ray::rpc::NodeInfoGcsService.grpc_client.GetAllNodeInfo": 2,
        "ray::rpc::InternalKVGcsService.grpc_client.InternalKVPut": 2,
    }
    names = {"request": "req", "response": "resp", "in_flight": "in_flight"}
    for where in Random(seed).sample(sorted(names), scale(1, 3)):
        chances = {f"{name}_failure_prob": 100 * (kind == where) for kind, name in names.items()}
        faults = json.dumps({call: {"num_failures": times, **chances} for call, times in calls.items()})
        run = Run(tmp_path / where)
        driver = run.start(cluster, {"RAY_testing_rpc_failure": faults}, Hasty)
        run.finish(cluster, whole, driver, seed)
        promise(f"failed calls (real Ray), {where}: kinds {len(calls)}  lost 0  doubled 0  pairs equal yes")


def test_a_killed_node_and_a_killed_driver(
    cluster: Raylets, whole: Path, tmp_path: Path, scale: Scale, seed: int, promise: Promise
) -> None:
    """A node dies under two engines; there is room for one of them until another node joins. Then the driver dies."""
    noticed: list[float] = []
    freed: list[float] = []
    for number in range(scale(1, 10)):
        run = Run(tmp_path / str(number))
        driver = run.start(cluster, sampler=Lasting)
        node = cluster.others[0]
        until(lambda node=node: bool(cluster.actors(node=node)), "a worker on the second node")
        until(run.drawing(), "candidates")
        cluster.kill(node)
        noticed.append(until(lambda: cluster.alive() == 1, "Ray notices the death of a node"))
        until(run.drawing(), "candidates while a node is gone")
        cluster.add()
        until(run.drawing(), "candidates after another node has come")
        driver.process.kill()
        run.ended(driver)
        freed.append(until(cluster.free, "GPUs of a killed driver are free"))
        assert len(LOST.findall(run.said)) >= 2, run.said
        run.finish(cluster, whole, run.start(cluster), seed)
        freed.append(until(cluster.free, "GPUs of a run that ended are free"))
    promise(
        f"SIGKILL of a raylet, then of the driver: faults {2 * len(noticed)}  lost 0  doubled 0  pairs equal yes  "
        f"noticed after {max(noticed):.1f} s  free again after {max(freed):.1f} s"
    )


def test_a_preempted_node(
    cluster: Raylets, whole: Path, tmp_path: Path, scale: Scale, seed: int, promise: Promise
) -> None:
    """Ray is told that a node will go; at the deadline it does. Its workers are no worse for that."""
    times = 0
    for deadline_s in [5.0, *[30.0, 5.0] * scale(0, 5)]:
        run = Run(tmp_path / str(times))
        times += 1
        driver = run.start(cluster, sampler=Lasting)
        node = cluster.others[0]
        until(lambda node=node: bool(cluster.actors(node=node)), "a worker on the second node")
        until(run.drawing(), "candidates")
        cluster.preempt(node, deadline_s)
        time.sleep(deadline_s)
        assert driver.process.is_alive(), "the run ended before the node went"
        cluster.kill(node)
        cluster.add()
        run.finish(cluster, whole, driver, seed)
        losses = LOST.findall(run.said)
        assert losses and all("lost with its node" in line for line in losses), run.said
    promise(f"preempted nodes (real Ray): faults {times}  lost 0  doubled 0  pairs equal yes  charged to workers 0")


def test_a_killed_head(
    cluster: Raylets, other: Raylets, whole: Path, tmp_path: Path, seed: int, promise: Promise
) -> None:
    """GCS and raylet of the head die, and with them the cluster; the same command goes on with another one."""
    run = Run(tmp_path / "run")
    driver = run.start(cluster, {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"})
    until(run.drawing(100), "candidates")
    cluster.kill_head()
    begun = time.monotonic()
    assert run.ended(driver) != 0
    ended = time.monotonic() - begun
    print(run.said)
    run.finish(other, whole, run.start(other), seed)
    promise(
        f"SIGKILL of the head: faults 1  lost 0  doubled 0  pairs equal yes  driver ends after {ended:.0f} s  "
        "goes on with another head, without Redis"
    )


def test_a_full_object_store(other: Raylets, spill: Path, tmp_path: Path, scale: Scale, promise: Promise) -> None:
    """A store of 80 MB that others have filled: what passes through is small, and spilled where it must be."""
    prompts = scale(100, 1000)
    settings = Cluster(
        address=other.address, gpu=True, share_gpu=False, rollout_workers=4, judge_workers=2, in_flight=128
    )
    driver = Driver(tmp_path, settings, wide=prompts)
    assert driver.end(3600) == 0, driver.text
    rows = [row.id for row in ledger_rows(tmp_path / "run/stages/00-prefer/candidates.jsonl", Candidate)]
    assert len(rows) == len(set(rows)) == prompts * 100
    measured = msgspec.json.decode((tmp_path / "measured.json").read_bytes(), type=dict[str, int])
    assert measured["bytes"] > 80 * 10**6 and measured["largest"] <= 2**20
    assert measured["waiting"] <= 2 * 64 * 32 + 4 * 160 + 2 * 32
    promise(
        f"object store of 80 MB, 75 MB of it taken: candidates {len(rows):,}  "
        f"messages {measured['bytes'] / 1e6:.0f} MB, "
        f"the largest {measured['largest'] / 2**20:.2f} MiB  queue at most {measured['waiting']:,}  "
        f"spilled {measured['spilled'] / 1e6:.0f} MB"
    )
