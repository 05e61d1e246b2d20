"""What a worker does, without Ray: one engine that samples, or one judge."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from erpo_ray import environment, rules
from erpo_ray.cluster.canary import Served
from erpo_ray.cluster.protocol import Drawn, Item
from erpo_ray.config import Config
from erpo_ray.config.decoding import SEARCHES
from erpo_ray.config.judges import has_model
from erpo_ray.engines import search
from erpo_ray.engines.judges import Bench, judge_of
from erpo_ray.engines.vllm import Engine, EngineSettings, Finished
from erpo_ray.errors import RunFailed
from erpo_ray.train.weights import version
from erpo_ray.types import Policy, Request, Verdict
from erpo_ray.usage import Usage, usage

if TYPE_CHECKING:
    from erpo_ray.engines.defences.engine import DefendedEngine
    from erpo_ray.engines.search import SearchEngine


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def engine_settings(config: Config, gpu: bool) -> EngineSettings:
    """The engine's part of a configuration."""
    return EngineSettings(
        max_length=config.model.max_length,
        in_flight=config.cluster.in_flight,
        kv_cache_gib=config.cluster.kv_cache_gib,
        gpu=gpu,
        gpu_memory_utilization=config.cluster.gpu_memory_utilization,
        sleep=gpu and config.cluster.share_gpu,
    )


def engine_of(policy: Policy, config: Config, gpu: bool) -> Engine | SearchEngine | DefendedEngine:
    """The policy in vLLM, there behind a search, or with a decoding-time defence in transformers."""
    settings, decode = engine_settings(config, gpu), config.evaluate.decode
    if decode.name not in ("plain", *SEARCHES):
        from erpo_ray.engines.defences import engine

        return engine.start(policy, decode, settings.max_length, gpu)
    plain = Engine(policy.path, policy.version, settings)
    return search.start(policy, plain, config, gpu) if decode.name in SEARCHES else plain


def require(policy: Policy) -> None:
    """RunFailed unless the files, as this machine reads them, are those that the policy was named by.

    A canary's numbers would not show a byte that hardly matters, nor one that engine and trainer read alike.
    """
    if (found := version(policy.path)) != policy.version:
        raise RunFailed(
            f"{policy.path}: the weights read here have version {found}, not {policy.version}: a file is damaged, or "
            "not the same on every machine; restore it and start the same command again"
        )


class RolloutWorker:
    """One engine in a process of its own. `share` is the number of workers on its machine, which divide the cores.

    With `wait` the engine starts when it is first asked for something: until then the worker only holds its place.
    """

    def __init__(self, policy: Policy, config: Config, gpu: bool, share: int, wait: bool = False) -> None:
        # Ray gives an actor without reserved CPUs one thread; the engine reads this when it imports torch.
        os.environ["OMP_NUM_THREADS"] = str(max(1, cores() // share))
        self._policy, self._config, self._gpu = policy, config, gpu
        self._started = None if wait else self._start()

    def _start(self) -> Engine | SearchEngine | DefendedEngine:
        require(self._policy)
        return engine_of(self._policy, self._config, self._gpu)

    @property
    def _engine(self) -> Engine | SearchEngine | DefendedEngine:
        if self._started is None:
            self._started = self._start()
        return self._started

    def begin(self, seed: int) -> None:
        self._engine.begin(seed)

    def advance(self, requests: Sequence[Request]) -> list[Finished | Drawn]:
        return [*self._engine.advance(requests), Drawn(self._engine.drawn)]

    def load(self, policy: Policy) -> None:
        if self._started is None:
            self._policy = policy
            self._started = self._start()
            return
        require(policy)
        self._started.load(policy.path, policy.version)

    def served(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> Served:
        return Served(self._engine.version, tuple(self._engine.logprobs(prompt_ids, completion_ids)))

    def sleep(self) -> None:
        if self._started is not None:
            self._started.sleep()

    def usage(self) -> Usage:
        return usage()


class JudgeWorker:
    """The configured judge with its models; also the trainer's side of a canary."""

    def __init__(self, config: Config, gpu: bool = False) -> None:
        if has_model(config.judge):
            os.environ["OMP_NUM_THREADS"] = str(cores())
        bench = Bench(rules.load(config.rules.path), config.model.dialect, gpu)
        self._judge, self._bf16 = judge_of(config.judge, bench), environment.bf16(gpu)

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        # Without items it only says that it is up, and asks no model.
        return list(self._judge.judge(items)) if items else []

    def usage(self) -> Usage:
        return usage()

    def logprobs(self, model_dir: Path, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> list[float]:
        """Log-probabilities of the completion tokens as the trainer computes them."""
        from erpo_ray.train import canary

        return canary.logprobs(model_dir, prompt_ids, completion_ids, self._bf16)
