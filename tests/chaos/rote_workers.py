"""Workers of a Ray cluster whose engines and judges answer by rote. Apart from drivers, whose imports take seconds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fakes import PLAIN, Letters, Rote

from erpo_ray import rules
from erpo_ray.cluster.protocol import Item
from erpo_ray.cluster.workers import JudgeWorker, RolloutWorker
from erpo_ray.config import Config
from erpo_ray.engines.vllm import Finished
from erpo_ray.types import Candidate, Policy, Request, Scores, Verdict

BOOK = rules.load("")
A_STEP = 2
"""Completions that an engine by rote has done in a call."""


class Engine:
    """Answers by rote, in its own time: `step_s` seconds a call."""

    step_s = 0.2

    def __init__(self, config: Config, policy: Policy) -> None:
        self._rote, self._held, self.drawn = Rote(config, BOOK), list[tuple[Request, int]](), 0
        self.load(policy.path, policy.version)

    def begin(self, seed: int) -> None:
        self._held.clear()
        self.drawn = 0

    def load(self, model_dir: Path, version: str) -> None:
        self.version, self._rote._skill = version, int(version.removeprefix("skill"))

    def logprobs(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> list[float]:
        return [-1.0 - self._rote._skill] * len(completion_ids)

    def sleep(self) -> None: ...

    def advance(self, requests: Sequence[Request]) -> list[Finished]:
        self._held += [(request, sample) for request in requests for sample in request.samples]
        if not self._held:
            return []
        time.sleep(self.step_s)
        done, self._held[:] = self._held[:A_STEP], self._held[A_STEP:]
        return [self._finished(self._rote._candidate(request, sample, "")) for request, sample in done]

    def _finished(self, one: Candidate) -> Finished:
        self.drawn += len(one.token_ids)
        return Finished(one.prompt_id, one.sample, one.token_ids, one.text, one.finish, one.policy)


class Brisk(Engine):
    step_s = 0.02


class Steady(Engine):
    step_s = 0.6


class Wordy(Engine):
    """Quick, and never short of words: 40 completions of some 9 kB a call."""

    def advance(self, requests: Sequence[Request]) -> list[Finished]:
        self._held += [(request, sample) for request in requests for sample in request.samples]
        done, self._held[:] = self._held[:40], self._held[40:]
        return [self._word(request, sample) for request, sample in done]

    def _word(self, request: Request, sample: int) -> Finished:
        text = f"{request.prompt.id} {sample} {PLAIN * 40}"
        self.drawn += len(text)
        return Finished(request.prompt.id, sample, Letters().encode_completion(text), text, "stop", "skill0")


class Sampler(RolloutWorker):
    """A rollout worker with such an engine."""

    kind: type[Engine] = Engine

    def _start(self) -> Any:
        return self.kind(self._config, self._policy)

    def load(self, policy: Policy) -> None:
        self._engine.load(policy.path, policy.version)


class Hasty(Sampler):
    kind = Brisk


class Lasting(Sampler):
    kind = Steady


class Talker(Sampler):
    kind = Wordy


class Weigher(JudgeWorker):
    """A judge worker with the rules and a relevance by rote; its trainer's side reads the skill of the files."""

    def __init__(self, config: Config, gpu: bool = False) -> None:
        self._judge = Rote(config, BOOK)._judge

    def logprobs(self, model_dir: Path, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> list[float]:
        return [-1.0 - int((model_dir / "skill").read_text())] * len(completion_ids)


class Nodder(Weigher):
    """Judges nothing, slowly."""

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        time.sleep(0.002 * len(items))
        return [Verdict(candidate.id, "nod", Scores(1.0, 1.0, 2)) for _, candidate in items]
