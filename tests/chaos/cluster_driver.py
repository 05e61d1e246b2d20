"""Drivers of the loop on a real Ray cluster, as processes that tests kill. Engines, judges and trainers are by rote.

What they say stands in `PLACE/said.N`, the ids they ask workers for in `PLACE/asked.N`, one line each.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgspec
from fakes import Rote
from rote_workers import BOOK, Nodder, Sampler, Talker, Weigher
from rundir_driver import NoSync
from test_loop import CONFIG, run

from erpo_ray.backend import Ahead, Name
from erpo_ray.cluster import crew as crews
from erpo_ray.cluster.backend import RayBackend
from erpo_ray.cluster.protocol import Item
from erpo_ray.config import Cluster, Config
from erpo_ray.endings import ending, terminable
from erpo_ray.explore import explore
from erpo_ray.rundir import RunDir
from erpo_ray.terminal import say
from erpo_ray.types import Candidate, Prompt, Request, Sampling, Verdict

forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["cluster_driver", "loop_driver"])


class Clustered(RayBackend):
    """The Ray backend. What trains in the driver, by rote, leaves workers alone."""

    def __init__(self, config: Config, asked: Path, sampler: type[Sampler] = Sampler, judge: type = Weigher) -> None:
        crews.RolloutWorker, crews.JudgeWorker = sampler, judge
        super().__init__(config)
        self.book, self._asked, rote = BOOK, asked, Rote(config, BOOK)
        self._tokens = (1, 2), (3, 4)
        self.imitate, self.prefer, self.policy = rote.imitate, rote.prefer, rote.policy

    def rollouts(
        self, requests: Iterable[Request], unjudged: Sequence[Item], name: Name, ahead: Ahead | None = None
    ) -> Iterator[Candidate | Verdict]:
        wanted = list(requests)
        with self._asked.open("a") as stream:
            stream.writelines(f"{name(each.prompt.id, k)}\n" for each in wanted for k in each.samples)
        return super().rollouts(wanted, unjudged, name)


@dataclass(frozen=True)
class Asked:
    """What a driver is to do: the loop with such engines, or with `wide` only samples of so many prompts, 100 each."""

    place: Path
    number: int
    cluster: Cluster
    environment: Mapping[str, str]
    sampler: type[Sampler] = Sampler
    wide: int = 0


class Driver:
    """A driver at work on `place/run`; a later one on the same place goes on with it."""

    def __init__(
        self,
        place: Path,
        cluster: Cluster,
        environment: Mapping[str, str] | None = None,
        sampler: type[Sampler] = Sampler,
        wide: int = 0,
    ) -> None:
        self.number = len(list(place.glob("said.*")))
        self.said, self._asked = place / f"said.{self.number}", place / f"asked.{self.number}"
        self.said.touch()
        self._asked.touch()
        asked = Asked(place, self.number, cluster, environment or {}, sampler, wide)
        self.process: BaseProcess = forks.Process(target=_drive, args=(asked,))
        self.process.start()

    def end(self, timeout_s: float = 900.0) -> int:
        """Its exit code, negative for a signal."""
        self.process.join(timeout_s)
        assert self.process.exitcode is not None, f"no end after {timeout_s:.0f} s:\n{self.text}"
        return self.process.exitcode

    @property
    def asked(self) -> list[str]:
        return self._asked.read_text().split()

    @property
    def text(self) -> str:
        return self.said.read_text(errors="replace")


def _drive(asked: Asked) -> None:
    os.environ |= asked.environment
    with (asked.place / f"said.{asked.number}").open("ab") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    config = CONFIG.model_copy(update={"cluster": asked.cluster})
    sheet = asked.place / f"asked.{asked.number}"
    try:
        with terminable():
            if asked.wide:
                _draw(asked.place, config, sheet, asked.wide)
            else:
                _align(asked.place, config, sheet, asked.sampler)
    except BaseException as error:
        end = ending(error)
        say(f"erpo: {end.message}")
        sys.stdout.flush()
        os._exit(end.exit_code)


def _align(place: Path, config: Config, sheet: Path, sampler: type[Sampler]) -> None:
    backend: Any = Clustered(config, sheet, sampler)
    try:
        run(place, config, backend, files=NoSync())
    finally:
        backend.close()


def _draw(place: Path, config: Config, sheet: Path, prompts: int) -> None:
    """Only rollouts, in a store that others have filled. Leaves `measured.json`."""
    import ray
    from ray._private import internal_api

    backend = Clustered(config, sheet, Talker, Nodder)
    others = [ray.put(os.urandom(4 * 2**20)) for _ in range(18)]
    measured = _weighed(backend._workers)
    draw = Sampling(1.0, 8)
    asked = [Request(Prompt(f"p{i}", f"text {i}", "benign"), (1, i), tuple(range(100)), draw) for i in range(prompts)]
    base = place / "base"
    base.mkdir(exist_ok=True)
    (base / "skill").write_text("0")
    waiting = [0, 0]

    class Phase:
        def __enter__(self) -> Callable[[int], None]:
            return lambda count: None

        def __exit__(self, *_: object) -> None: ...

    inner = backend.rollouts

    def counted(*arguments: Any) -> Iterator[Candidate | Verdict]:
        for item in inner(*arguments):
            waiting[0] += 1 if isinstance(item, Candidate) else -1
            waiting[1] = max(waiting)
            yield item

    vars(backend)["rollouts"] = counted
    with RunDir.open(place / "run", config, files=NoSync()) as directory, directory.stage("00-prefer") as s:
        explore(s, asked, backend.policy(base), backend, "run", lambda name, total: Phase(), 0.0)
        stats = internal_api.get_memory_info_reply(
            internal_api.get_state_from_address(ray.get_runtime_context().gcs_address)
        )
        told = measured | {"waiting": waiting[1], "spilled": stats.store_stats.spilled_bytes_total}
        (place / "measured.json").write_bytes(msgspec.json.encode(told))
    assert [len(ray.get(other)) for other in others] == [4 * 2**20] * 18
    backend.close()


def _weighed(crew: Any) -> dict[str, int]:
    """The bytes of the largest message, and of all together, from now on."""
    found = {"largest": 0, "bytes": 0}

    def weigh(message: Any) -> Any:
        size = len(pickle.dumps(message))
        found["largest"], found["bytes"] = max(found["largest"], size), found["bytes"] + size
        return message

    advance, judge, result = crew.advance, crew.judge, crew.result
    vars(crew).update(
        advance=lambda worker, requests: advance(worker, weigh(requests)),
        judge=lambda worker, items: judge(worker, weigh(items)),
        result=lambda ticket: weigh(result(ticket)),
    )
    return found
