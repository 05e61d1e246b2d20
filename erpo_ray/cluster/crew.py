"""The pool's workers as Ray actors: created, called, replaced."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from erpo_ray.cluster.canary import Served
from erpo_ray.cluster.pool import CALL_DEADLINE_S, LOSSES_IN_A_ROW
from erpo_ray.cluster.protocol import Item, WorkerLost
from erpo_ray.cluster.start import Joined
from erpo_ray.cluster.workers import JudgeWorker, RolloutWorker
from erpo_ray.config import Config
from erpo_ray.config.judges import has_model
from erpo_ray.errors import RunFailed, UsageError
from erpo_ray.telemetry import Present
from erpo_ray.terminal import say
from erpo_ray.types import Policy, Request, seed_of
from erpo_ray.usage import Usage

ROLLOUT_SHARE, TRAIN_SHARE = 0.51, 0.49
"""Parts of a GPU when rollout and training take turns: two rollout workers never fit one GPU, one of each does."""

REST_S, STARTS = 300.0, 3
"""Seconds within which a worker that draws nothing answers, or so many times as long as it takes workers to come up:
new weights, a new pass and a proof take less than a start."""

_NEVER_RAN = "The actor never ran"
"""How the last line of Ray's error begins where an actor had yet to start."""

ANSWER_S = 30.0
"""Seconds that a worker without anything to do has to say what it holds."""


class RayCrew:
    """Rollout and judge actors. On CPU they reserve nothing: they rest while others compute.

    A worker that took the place of a lost one is absent until it is up: its node may be gone for good.
    """

    def __init__(self, config: Config, joined: Joined, note: Callable[[str], None] = say) -> None:
        """`note` hears of each loss."""
        self._note = note
        self.rollout_workers = config.cluster.rollout_workers
        self.judge_workers = config.cluster.judge_workers
        self._config, self._joined = config, joined
        self._policy: Policy | None = None
        self._seed = 0
        self._replaced = 0
        self._rollout: list[Any] = []
        self._starting: dict[int, Any] = {}
        self._successors: set[int] = set()
        self._judges_starting: dict[int, Any] = {}
        self._asked_for = 0.0
        self._patience_s = 0.0
        self._judge = [self._new_judge() for _ in range(self.judge_workers)]

    def serve(self, policy: Policy) -> None:
        """All rollout workers have these weights: new workers start with them, running ones load them in place."""
        loaded, self._policy = self._policy, policy
        self._asked_for = self._asked_for or time.monotonic()
        if not self._rollout:
            self._rollout = [self._new_rollout() for _ in range(self.rollout_workers)]
        elif loaded != policy:
            for worker in self._absent():
                # It would come up with the weights of before.
                self.replace_rollout(worker)
            self._of_all(lambda worker: self._rollout[worker].load.remote(policy))

    def sleep(self, policy: Policy) -> None:
        """Rollout workers leave their GPU to the trainer, and hold their share of it: where none is held Ray would
        give two trainers the same one. Those that are not up yet do so without an engine, and start it afterwards."""
        if not self._rollout:
            self._policy = policy
            self._rollout = [self._new_rollout(wait=True) for _ in range(self.rollout_workers)]
        for worker in self._absent():
            ray.kill(self._rollout[worker])
            self._successors.add(worker)
            self._rollout[worker] = new = self._new_rollout(wait=True)
            self._starting[worker] = new.sleep.remote()
        self._of_all(lambda worker: self._rollout[worker].sleep.remote())

    def begin(self, seed: int) -> Collection[int]:
        """A new pass: workers drop what they hold and draw from streams that follow from `seed`. Who is absent?"""
        self._seed = seed
        if self._rollout:
            self._of_all(lambda worker: self._rollout[worker].begin.remote(seed_of(seed, worker)))
        return self._absent()

    def served(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> list[Served]:
        """What every rollout worker that is up says it serves."""
        return self._of_all(lambda worker: self._rollout[worker].served.remote(prompt_ids, completion_ids))

    def trainer_logprobs(
        self, policy: Policy, prompt_ids: Sequence[int], completion_ids: Sequence[int]
    ) -> Callable[[], list[float]]:
        """As the trainer sees the policy's files; computed from now on."""

        def ask() -> tuple[int, Any]:
            judge = self._judge_that_is_up()
            return judge, self._judge[judge].logprobs.remote(policy.path, prompt_ids, completion_ids)

        judge, begun = ask()

        def wait() -> list[float]:
            try:
                return ray.get(begun, timeout=CALL_DEADLINE_S)
            except RayActorError as error:
                self._note(f"judge worker {judge} was lost at rest: {last_line(error)}")
                self.replace_judge(judge)
            except RayError as error:
                raise _failed(error) from error
            try:
                return ray.get(ask()[1], timeout=CALL_DEADLINE_S)
            except RayError as error:
                raise _failed(error) from error

        return wait

    def present(self) -> tuple[int, int]:
        """How many rollout and judge workers are up: all but those that take the place of lost ones, as far as is
        known. For any thread."""
        return self.rollout_workers - len(self._starting), self.judge_workers - len(self._judges_starting)

    def living(self) -> dict[str, Present]:
        """How many of each role are up, as far as is known: no rollout worker before the first has answered."""
        starting = self.rollout_workers if not self._patience_s else len(_pending(dict(self._starting)))
        judges = len(_pending(dict(self._judges_starting)))
        return {
            "rollout": Present(self.rollout_workers - starting, self.rollout_workers),
            "judge": Present(self.judge_workers - judges, self.judge_workers),
        }

    def advance(self, worker: int, requests: Sequence[Request]) -> Any:
        return self._rollout[worker].advance.remote(requests)

    def judge(self, worker: int, items: Sequence[Item]) -> Any:
        return self._judge[worker].judge.remote(items)

    def wait(self, tickets: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        ready, waiting = ray.wait(list(tickets), num_returns=1, timeout=timeout_s)
        return [*ready, *ray.wait(waiting, num_returns=len(waiting), timeout=0)[0]] if ready and waiting else ready

    def result(self, ticket: Any) -> list[Any]:
        try:
            return ray.get(ticket)
        except RayError as error:
            if isinstance(error, RayTaskError) and isinstance(error.cause, UsageError):
                # A wrong key or address: another worker would meet it too.
                raise error.cause from None
            raise WorkerLost(last_line(error), _node_went(error)) from error

    def replace_rollout(self, worker: int) -> None:
        ray.kill(self._rollout[worker])
        self._replaced += 1
        self._successors.add(worker)
        self._rollout[worker] = new = self._new_rollout()
        self._starting[worker] = new.begin.remote(seed_of(self._seed, worker, "replaced", self._replaced))

    def replace_judge(self, worker: int) -> None:
        ray.kill(self._judge[worker])
        self._judge[worker] = new = self._new_judge()
        self._judges_starting[worker] = new.judge.remote(())

    def usage(self) -> dict[str, Usage]:
        """What each worker holds, by name; without those that do not answer. Call it when they have nothing to do."""
        asked = {f"rollout-{i}": worker.usage.remote() for i, worker in enumerate(self._rollout)}
        asked |= {f"judge-{i}": worker.usage.remote() for i, worker in enumerate(self._judge)}
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_S)
        return {name: found for name, ref in asked.items() if (found := answered(ref, 0.0)) is not None}

    def replace(self, name: str) -> None:
        """The worker of that name."""
        role, _, number = name.partition("-")
        {"rollout": self.replace_rollout, "judge": self.replace_judge}[role](int(number))

    def close(self) -> None:
        """End all workers, once: without any, Ray would start for a second call."""
        workers, self._rollout, self._judge = [*self._rollout, *self._judge], [], []
        for worker in workers:
            ray.kill(worker)

    def _new_rollout(self, wait: bool = False) -> Any:
        assert self._policy is not None
        gpu, cluster = self._joined.gpu, self._config.cluster
        options: dict[str, Any] = {"num_gpus": ROLLOUT_SHARE if cluster.share_gpu else 1} if gpu else {"num_gpus": 0}
        share = math.ceil(self.rollout_workers / self._joined.nodes)
        options["label_selector"] = cluster.rollout_labels
        remote = ray.remote(num_cpus=0, scheduling_strategy="SPREAD", **options)(RolloutWorker)
        return remote.remote(self._policy, self._config, gpu, share, wait)

    def _new_judge(self) -> Any:
        gpu = self._joined.gpu and has_model(self._config.judge)
        labels = self._config.cluster.judge_labels
        remote = ray.remote(num_cpus=0, num_gpus=int(gpu), scheduling_strategy="SPREAD", label_selector=labels)
        return remote(JudgeWorker).remote(self._config, gpu)

    def _absent(self) -> set[int]:
        """Workers that have yet to come up. One whose start has failed is not among them: its next call tells."""
        self._starting = _pending(self._starting)
        return set(self._starting)

    def _judge_that_is_up(self) -> int:
        self._judges_starting = _pending(self._judges_starting)
        return next((judge for judge in range(self.judge_workers) if judge not in self._judges_starting), 0)

    def _of_all(self, call: Callable[[int], Any]) -> list[Any]:
        """What every rollout worker answers that is up, one at least. One that dies, or hangs, is replaced, and not
        waited for while there are others; RunFailed with the cause when a call raises, when workers do not come up in
        the first place, or all were lost LOSSES_IN_A_ROW times."""
        for last in reversed(range(LOSSES_IN_A_ROW)):
            absent = self._absent()
            if len(absent) == self.rollout_workers:
                ray.wait([*self._starting.values()], timeout=CALL_DEADLINE_S)
                absent = self._absent()
            present = [worker for worker in range(self.rollout_workers) if worker not in absent]
            if not present:
                break
            answers: list[Any] = []
            until = time.monotonic() + (self._patience_s or CALL_DEADLINE_S)
            for worker, ref in [(worker, call(worker)) for worker in present]:
                try:
                    answers.append(ray.get(ref, timeout=max(0.0, until - time.monotonic())))
                except RayError as error:
                    why = self._lost_at_rest(worker, error)
                    if not why or (last == 0 and not answers):
                        raise _failed(error, self._patience_s or CALL_DEADLINE_S) from error
                    self._note(f"rollout worker {worker} was lost at rest: {why}")
                    self.replace_rollout(worker)
            if answers:
                if self._asked_for:
                    self._patience_s = self._patience_s or max(REST_S, STARTS * (time.monotonic() - self._asked_for))
                return answers
        raise _failed(GetTimeoutError())

    def _lost_at_rest(self, worker: int, error: RayError) -> str:
        """Why the worker of such a call is lost; empty when it is not, or was to be the first in its place and has
        never been up: the settings may be wrong."""
        if isinstance(error, GetTimeoutError) and self._patience_s:
            return f"gave no sign for {self._patience_s:.0f} s"
        died = isinstance(error, RayActorError) and (not error.actor_init_failed or worker in self._successors)
        return last_line(error) if died else ""


def _pending(calls: dict[int, Any]) -> dict[int, Any]:
    """Those of the calls that have yet to end."""
    if not calls:
        return {}
    ended, _ = ray.wait([*calls.values()], num_returns=len(calls), timeout=0)
    return {worker: call for worker, call in calls.items() if call not in ended}


def _failed(error: RayError, waited_s: float = CALL_DEADLINE_S) -> RunFailed:
    """Of a call that must be answered."""
    if isinstance(error, GetTimeoutError):
        return RunFailed(
            f"a worker did not answer for {waited_s:.0f} s; `ray status` shows whether it waits for resources"
        )
    return RunFailed(f"a worker failed: {last_line(error)}; start the same command again")


def answered(ref: Any, timeout_s: float) -> Any:
    """The result of a call, None when none comes or the worker is lost: whoever needs it next will find out."""
    try:
        return ray.get(ref, timeout=timeout_s)
    except RayError:
        return None


def _node_went(error: RayError) -> bool:
    """Whether the node was called in, or died before the worker had come up, which then cannot have brought it down.

    The second stands in no field of Ray's error.
    """
    if not isinstance(error, RayActorError):
        return False
    return error.preempted or ("its node has died" in str(error) and _NEVER_RAN in str(error))


def last_line(error: BaseException) -> str:
    """The line of a Ray error that names the cause: the last one of its text, without Ray's guesses of what may be.

    Not the one that says only that an actor had yet to start.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[-1].startswith(_NEVER_RAN):
        lines.pop()
    return lines[-1].partition(" Some common causes")[0] if lines else type(error).__name__
