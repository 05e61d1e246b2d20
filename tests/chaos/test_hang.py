"""A rollout actor that is stopped, and goes on when another has its place: found by its tokens, on real Ray."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
from fakes import Rote
from test_loop import CONFIG, run
from typists import Crewed, RoteJudge, TypistWorker

from erpo_ray import rules
from erpo_ray.cluster import crew
from erpo_ray.cluster.crew import RayCrew
from erpo_ray.cluster.pace import STALL_S
from erpo_ray.cluster.start import join, leave
from erpo_ray.types import Policy

STOPPED_AT = 150
"""Samples that are there when an actor is stopped: in the first round of preference."""


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[RayCrew]:
    tests = Path(__file__).parents[1]
    inherited = [tests / "chaos", tests / "unit", tests.parent, os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, inherited)))
    monkeypatch.setattr(crew, "RolloutWorker", TypistWorker)
    monkeypatch.setattr(crew, "JudgeWorker", RoteJudge)
    cluster = CONFIG.cluster.model_copy(update={"rollout_workers": 2, "in_flight": 8})
    joined = join(cluster)
    try:
        yield RayCrew(CONFIG.model_copy(update={"cluster": cluster}), joined)
    finally:
        leave(joined)


@dataclass
class Stop:
    """SIGSTOP of the first actor; SIGCONT as soon as another has its place."""

    crew: RayCrew
    detected_s: float = 0.0
    continued: bool = False
    pid: int = 0

    def begin(self) -> None:
        stopped = self.crew._rollout[0]
        self.pid = ray.get(stopped.__ray_call__.remote(lambda self: os.getpid()))
        os.kill(self.pid, signal.SIGSTOP)
        threading.Thread(target=self._watch, args=(stopped, time.monotonic()), daemon=True).start()

    def _watch(self, stopped: object, since: float) -> None:
        while self.crew._rollout[0] is stopped:
            time.sleep(0.05)
        self.detected_s = time.monotonic() - since
        try:
            os.kill(self.pid, signal.SIGCONT)
        except ProcessLookupError:
            return
        self.continued = True


def test_an_actor_that_is_stopped_at_rest_is_replaced_when_it_is_asked_for_something(
    tmp_path: Path, workers: RayCrew, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(crew, "REST_S", 3.0)
    monkeypatch.setattr(crew, "STARTS", 0)

    def policy(skill: int) -> Policy:
        path = tmp_path / str(skill)
        path.mkdir()
        (path / "skill").write_text(str(skill))
        return Policy(path, f"skill{skill}")

    workers.serve(policy(0))
    workers.begin(0)
    stopped = ray.get(workers._rollout[0].__ray_call__.remote(lambda self: os.getpid()))
    os.kill(stopped, signal.SIGSTOP)
    begun = time.monotonic()
    workers.serve(later := policy(1))
    assert 3.0 <= time.monotonic() - begun < 10.0
    assert "rollout worker 0 was lost at rest: gave no sign for 3 s\n" in capsys.readouterr().out
    ray.wait([*workers._starting.values()], timeout=60)
    assert not workers.begin(1)
    versions = [ray.get(each.__ray_call__.remote(lambda self: self._engine.version)) for each in workers._rollout]
    assert versions == [later.version] * 2


def test_a_stopped_actor_is_replaced_and_what_it_says_later_counts_for_nothing(
    tmp_path: Path, workers: RayCrew, promise: Callable[[str], None]
) -> None:
    whole, place = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    place.mkdir()
    run(whole, CONFIG, Rote(CONFIG, rules.load("")))
    stop = Stop(workers)

    class Stopping(Crewed):
        def rollouts(self, *arguments):
            for item in super().rollouts(*arguments):
                yield item
                if not stop.pid and len(self.sampled) >= STOPPED_AT:
                    stop.begin()

    backend = Stopping(CONFIG, workers)
    begun = time.monotonic()
    run(place, CONFIG, backend)
    wall = time.monotonic() - begun
    assert len(backend.sampled) == len(set(backend.sampled))
    made = sorted(whole.glob("run/stages/*/pairs.jsonl")) + sorted(whole.glob("run/stages/*/examples.jsonl"))
    assert len(made) == 4
    for path in made:
        assert (place / path.relative_to(whole)).read_bytes() == path.read_bytes()
    assert STALL_S <= stop.detected_s < 3 * STALL_S
    assert "rollout worker 0 gave no sign for" in backend.said[0]
    end = time.monotonic() + 60
    while Path(f"/proc/{stop.pid}").exists():
        assert time.monotonic() < end, "the actor that was stopped lives on"
        time.sleep(0.1)
    promise(
        f"SIGSTOP of an actor on Ray: faults 1  lost 0  doubled 0  pairs equal yes  found by its tokens after "
        f"{stop.detected_s:.1f} s  run {wall:.0f} s"
    )
