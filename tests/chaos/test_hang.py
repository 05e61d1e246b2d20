"""On real Ray: a rollout actor that is stopped, and goes on when another has its place, found by its tokens; a training
rank that is stopped, found by the signs that it leaves."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
import stopping_rank
import tiny
from fakes import Rote
from test_loop import CONFIG, run
from typists import Crewed, RoteJudge, TypistWorker

from erpo_ray import rules
from erpo_ray.cluster import crew, training
from erpo_ray.cluster.crew import RayCrew
from erpo_ray.cluster.job import Job
from erpo_ray.cluster.pace import STALL_S
from erpo_ray.cluster.start import join, leave
from erpo_ray.cluster.training import Trainers
from erpo_ray.cluster.vigil import Limits
from erpo_ray.objectives import Objective, Training
from erpo_ray.rundir.lines import artefact, plain_rows
from erpo_ray.telemetry import STEPS, Step
from erpo_ray.types import Policy, encode

STOPPED_AT = 150
"""Samples that are there when an actor is stopped: in the first round of preference."""


@pytest.fixture
def inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies beside these tests can be imported by actors."""
    tests = Path(__file__).parents[1]
    places = [tests / "chaos", tests / "unit", tests.parent, os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch, inherited: None) -> Iterator[RayCrew]:
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


STILL_S, MUTE_S = 10.0, 5.0
"""Seconds that a step may take here, and those without a beat of a process that is stopped."""
TRAINING = Training(
    learning_rate=1e-2, epochs=3, batch_size=8, micro_batch_size=2, max_length=64, bf16=False, save_steps=2
)
"""Six steps, a checkpoint behind each second one."""


def test_a_training_rank_that_is_stopped_is_replaced_and_the_weights_are_those_of_an_undisturbed_training(
    tmp_path: Path,
    inherited: None,
    monkeypatch: pytest.MonkeyPatch,
    promise: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    armed = tmp_path / "armed"
    monkeypatch.setenv(stopping_rank.ARMED, str(armed))
    monkeypatch.setattr(training, "loop", stopping_rank.loop)
    policy, rows = tiny.policy(tmp_path / "policy"), tmp_path / "pairs.jsonl"
    rows.write_bytes(artefact([encode(pair) for pair in tiny.pairs(16)]))
    cluster = CONFIG.cluster.model_copy(update={"train_workers": 2})

    def train(name: str) -> bytes:
        out, work = tmp_path / name / "out", tmp_path / name / "work"
        for path in (out, work):
            path.mkdir(parents=True)
        more = policy, Objective(beta=0.1, nll=0.1), tmp_path / name / "kept"
        trainers.train(Job(policy, rows, TRAINING, out, work, *more), lambda *_: None)
        assert [row.step for row in plain_rows(work / STEPS, Step)] == [1, 2, 3, 4, 5, 6]
        return (out / "model.safetensors").read_bytes()

    joined = join(cluster)
    limits = Limits(step_s=STILL_S, first_s=400.0, mute_s=MUTE_S)
    trainers = Trainers(cluster, joined, 0, (8,), lambda: (0, 0), limits)
    try:
        whole = train("whole")
        armed.touch()
        begun, group = time.monotonic(), trainers._group
        stopped = train("stopped")
        wall = time.monotonic() - begun
        assert trainers._group is not group
        trainers.close()
    finally:
        leave(joined)
    (pid,) = (int(path.suffix[1:]) for path in tmp_path.glob("armed.*"))
    said = capsys.readouterr().out
    found = re.search(
        r"training hung, its workers were ended and others take their place: rank 1 gave no sign for "
        r"(\d+) s in step 4: stopped",
        said,
    )
    assert found and said.count("hung") == 1, said
    assert MUTE_S < int(found[1]) < 3 * STILL_S
    assert not Path(f"/proc/{pid}").exists()
    assert stopped == whole
    promise(
        f"SIGSTOP of rank 1 of two in step 4 of 6, a step may take {STILL_S:.0f} s: faults 1  named after {found[1]} s "
        f"of silence  redone 1 step  weights equal yes  training {wall:.0f} s with a new worker group"
    )
