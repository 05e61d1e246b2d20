"""Asked to stop, a command ends what is in flight and keeps it; asked twice, it ends now."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from erpo_ray import stopping, synthesis
from erpo_ray.cluster.pool import Pool
from erpo_ray.commands.guarded import guarded
from erpo_ray.endings import terminable
from erpo_ray.engines.vllm import Finished
from erpo_ray.errors import Interrupted
from erpo_ray.scene import _beside
from erpo_ray.types import Candidate, Failure, Prompt, Request, Sampling, Verdict

PROMPTS = [Prompt(name, "?", "harmful") for name in "abcdef"]


def send(number: signal.Signals = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Ctrl-C is not ignored, wherever the tests are started."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_waits_for_the_block_that_is_patient(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []

    def work() -> int:
        with terminable():
            with stopping.patiently():
                with stopping.patiently():
                    assert not stopping.asked()
                    send(number)
                    assert stopping.asked()
                    done.append("in flight")
                done.append("behind the inner block")
        return 0

    assert guarded(work, "erpo run 'my config.yaml'") == 75
    assert done == ["in flight"] and not stopping.asked()
    shown = capfd.readouterr().err.strip().splitlines()
    assert shown == [
        "erpo: stops after what is in flight, which is kept; once more: now",
        "erpo: interrupted; go on with: erpo run 'my config.yaml'",
    ]


def test_the_second_signal_ends_it_now_and_those_after_it_leave_the_cleaning_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []
    now = [100.0]
    monkeypatch.setattr(stopping, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def work() -> int:
        with terminable():
            try:
                with stopping.patiently():
                    send()
                    done.append("first")
                    send()
                    done.append("second")
            finally:
                send()
                done.append("cleaned")
                now[0] += stopping.CLEANING_S
                send()
                done.append("for ever")
        return 0

    assert guarded(work) == 75
    assert done == ["first", "cleaned"]


def test_a_signal_that_meets_nobody_patient_ends_it_now() -> None:
    with pytest.raises(Interrupted), terminable():
        with stopping.patiently():
            pass
        send()
        raise AssertionError("it went on")
    assert not stopping.asked()


def test_a_ctrl_c_that_the_process_was_started_to_ignore_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with terminable():
        send()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_training_finds_out_by_a_file_or_in_its_own_process(tmp_path: Path) -> None:
    assert not stopping.left(tmp_path)
    stopping.leave(tmp_path)
    assert stopping.left(tmp_path)
    stopping.clear(tmp_path)
    stopping.clear(tmp_path)
    assert not stopping.left(tmp_path)
    with pytest.raises(Interrupted), terminable(), stopping.patiently():
        send()
        assert stopping.left(tmp_path)


class Crew:
    """One worker that draws a sample a call, and a judge; what it was given stands in `given`."""

    rollout_workers = judge_workers = 1

    def __init__(self) -> None:
        self.given: list[Request] = []
        self._held: list[tuple[str, int]] = []

    def advance(self, worker: int, requests: Sequence[Request]) -> Callable[[], list[Any]]:
        self.given += requests
        self._held += [(request.prompt.id, sample) for request in requests for sample in request.samples]

        def draw() -> list[Finished]:
            drawn, self._held = self._held[:1], self._held[1:]
            return [Finished(prompt, sample, (5,), "text", "stop", "v") for prompt, sample in drawn]

        return draw

    def judge(self, worker: int, items: Sequence[Any]) -> Callable[[], list[Any]]:
        return lambda: [Verdict(candidate.id, "rules") for _, candidate in items]

    def wait(self, tickets: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        return tickets[:1]

    def result(self, ticket: Callable[[], list[Any]]) -> list[Any]:
        return ticket()


def test_a_pass_that_is_to_stop_asks_for_nothing_more_and_judges_what_was_in_flight() -> None:
    crew, stop = Crew(), [False]
    requests = [Request(prompt, (1,), (0, 1), Sampling(1.0, 9)) for prompt in PROMPTS]
    waiting = Candidate("w", "a", 9, (5,), "text", "stop", "v")
    pool = Pool(crew, requests, [(PROMPTS[0], waiting)], "{}{}".format, 4, stop=lambda: stop[0])
    found: list[Candidate | Verdict] = []
    for item in pool.run():
        found.append(item)
        stop[0] = stop[0] or isinstance(item, Candidate)
    out = {f"{request.prompt.id}{sample}" for request in crew.given for sample in request.samples}
    drawn = {item.id for item in found if isinstance(item, Candidate)}
    # The worker was topped up before its first sample was told of.
    assert drawn == out and 5 <= len(out) <= 6
    assert {item.candidate_id for item in found if isinstance(item, Verdict)} == drawn | {"w"}


def test_a_teacher_is_asked_for_nothing_more_and_what_it_was_asked_is_kept() -> None:
    asked: list[str] = []

    class Teacher:
        def write(self, prompt: Prompt, *_: Any) -> Failure:
            asked.append(prompt.id)
            if prompt.id == "b":
                while not stopping.asked():
                    # A signal that comes just before the main thread waits does not wake it: the next one does.
                    send()
                    time.sleep(0.05)
            return Failure("kept")

    settings = SimpleNamespace(type="template", concurrency=1, max_failure_rate=1.0)
    config = SimpleNamespace(teacher=settings, seed=0)
    task: Any = SimpleNamespace(config=config, teacher=Teacher(), book=SimpleNamespace(category=str))
    with pytest.raises(Interrupted), terminable():
        synthesis.written(task, [(prompt, None) for prompt in PROMPTS])
    assert asked == ["a", "b"]


def test_a_training_beside_rollouts_is_waited_for_when_they_stop() -> None:
    ended: list[str] = []

    def train(until: Callable[[], bool]) -> None:
        while not until():
            pass
        ended.append("training")
        raise Interrupted("behind a checkpoint")

    def draw() -> None:
        send()
        ended.append("rollouts")
        stopping.check()

    with pytest.raises(Interrupted), terminable(), stopping.patiently():
        _beside(partial(train, stopping.asked), draw)
    assert sorted(ended) == ["rollouts", "training"]
