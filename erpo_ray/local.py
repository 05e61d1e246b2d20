"""The backend that needs no Ray: engine, judge and trainer in this process, one after the other. Breakpoints work."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from erpo_ray.cluster.canary import Served
from erpo_ray.cluster.job import Job, Progress, train
from erpo_ray.cluster.pooled import PooledBackend
from erpo_ray.cluster.protocol import Item
from erpo_ray.cluster.workers import JudgeWorker, engine_of
from erpo_ray.config import Config, Data
from erpo_ray.engines.devices import cuda_names
from erpo_ray.prompts.mixing import Mix, gather
from erpo_ray.rundir.lines import read_rows
from erpo_ray.telemetry import Present
from erpo_ray.types import Policy, Request

if TYPE_CHECKING:
    from erpo_ray.engines.defences.engine import DefendedEngine
    from erpo_ray.engines.search import SearchEngine
    from erpo_ray.engines.vllm import Engine


class InProcessBackend(PooledBackend):
    """The Backend protocol over one engine and one judge, with the rollout loop that Ray runs too."""

    def __init__(self, config: Config, progress: Progress = lambda step, steps, metrics: None) -> None:
        self._alone = _Alone(config)
        super().__init__(config, self._alone, progress)

    def prompts(self, data: Data, categories: Sequence[str], seed: int) -> Mix:
        """All prompts of a run, read here."""
        return gather(data, categories, seed)

    def expect(self, policy: Policy) -> None:
        """Nothing: a start would keep the caller waiting."""

    def _train(self, job: Job) -> dict[str, float]:
        if self._alone.engine:
            self._alone.engine.sleep()
        return train(job, read_rows(job.rows, job.kind), self._progress)


class _Alone:
    """A crew of one engine and one judge. A ticket is the call itself, made when its result is asked for."""

    rollout_workers = 1
    judge_workers = 1

    def __init__(self, config: Config) -> None:
        gpu = bool(cuda_names()) if config.cluster.gpu is None else config.cluster.gpu
        self.engine: Engine | SearchEngine | DefendedEngine | None = None
        self._policy: Policy | None = None
        self._config, self._gpu = config, gpu
        self._judge = JudgeWorker(config, gpu)

    def serve(self, policy: Policy) -> None:
        if self.engine is None:
            self.engine = engine_of(policy, self._config, self._gpu)
        elif self._policy != policy:
            self.engine.load(policy.path, policy.version)
        self._policy = policy

    def begin(self, seed: int) -> Collection[int]:
        if self.engine:
            self.engine.begin(seed)
        return ()

    def served(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> list[Served]:
        engine = self._served()
        return [Served(engine.version, tuple(engine.logprobs(prompt_ids, completion_ids)))]

    def trainer_logprobs(
        self, policy: Policy, prompt_ids: Sequence[int], completion_ids: Sequence[int]
    ) -> Callable[[], list[float]]:
        return partial(self._judge.logprobs, policy.path, prompt_ids, completion_ids)

    def advance(self, worker: int, requests: Sequence[Request]) -> Callable[[], list[Any]]:
        return partial(self._served().advance, requests)

    def judge(self, worker: int, items: Sequence[Item]) -> Callable[[], list[Any]]:
        return partial(self._judge.judge, items)

    def wait(self, tickets: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        return tickets[:1]

    def result(self, ticket: Callable[[], list[Any]]) -> list[Any]:
        return ticket()

    def replace_rollout(self, worker: int) -> None:
        raise AssertionError("nothing is lost in one process")

    replace_judge = replace_rollout

    def living(self) -> dict[str, Present]:
        return {"rollout": Present(int(self.engine is not None), 1), "judge": Present(1, 1)}

    def close(self) -> None:
        if self.engine:
            self.engine.close()
            self.engine = None

    def _served(self) -> Engine | SearchEngine | DefendedEngine:
        if self.engine is None:
            raise RuntimeError("prepare() comes before rollouts()")
        return self.engine
