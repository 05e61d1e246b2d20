"""Actors for real Ray that answer by rote, one token after the other: the same texts whoever draws them, and when."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fakes import Rote

from erpo_ray import rules
from erpo_ray.backend import Ahead, Name
from erpo_ray.cluster.crew import RayCrew
from erpo_ray.cluster.pool import Pool
from erpo_ray.cluster.protocol import Item
from erpo_ray.cluster.workers import RolloutWorker
from erpo_ray.config import Config
from erpo_ray.engines.vllm import Finished
from erpo_ray.types import Candidate, Policy, Request, Verdict

STEP_S = 0.05
STEP_TOKENS = 60


@dataclass
class _Open:
    request: Request
    candidate: Candidate
    drawn: int = 0


class Typist:
    """An engine that knows its answers: of each open completion it draws some tokens a step."""

    def __init__(self, policy: Policy, config: Config) -> None:
        self._rote = Rote(config, rules.load(config.rules.path))
        self._open: list[_Open] = []
        self.drawn = 0
        self.load(policy.path, policy.version)

    def begin(self, seed: int) -> None:
        self._open, self.drawn = [], 0

    def load(self, model_dir: Path, version: str) -> None:
        self.version, self._rote._skill = version, int((model_dir / "skill").read_text())

    def advance(self, new: Sequence[Request]) -> list[Finished]:
        self._open += [_Open(r, self._rote._candidate(r, sample, "")) for r in new for sample in r.samples]
        time.sleep(STEP_S)
        for one in self._open:
            step = min(STEP_TOKENS, len(one.candidate.token_ids) - one.drawn)
            one.drawn += step
            self.drawn += step
        done = [one.candidate for one in self._open if one.drawn == len(one.candidate.token_ids)]
        self._open = [one for one in self._open if one.drawn < len(one.candidate.token_ids)]
        return [Finished(c.prompt_id, c.sample, c.token_ids, c.text, "stop", self.version) for c in done]


class TypistWorker(RolloutWorker):
    """A rollout worker with such an engine."""

    def _start(self) -> Any:
        return Typist(self._policy, self._config)

    def load(self, policy: Policy) -> None:
        self._engine.load(policy.path, policy.version)


class RoteJudge:
    """A judge worker without models."""

    def __init__(self, config: Config, gpu: bool = False) -> None:
        self._rote = Rote(config, rules.load(config.rules.path))

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        return list(self._rote._judge.judge(items))


class Crewed(Rote):
    """The backend by rote, with its samples drawn by a crew of actors."""

    def __init__(self, config: Config, crew: RayCrew) -> None:
        super().__init__(config, rules.load(config.rules.path))
        self._crew, self._in_flight = crew, config.cluster.in_flight
        self.said: list[str] = []

    def prepare(self, policy: Policy) -> None:
        super().prepare(policy)
        self._crew.serve(policy)

    def rollouts(
        self, requests: Sequence[Request], unjudged: Sequence[Item], name: Name, ahead: Ahead | None = None
    ) -> Iterator[Candidate | Verdict]:
        self._crew.begin(0)
        for item in Pool(self._crew, requests, unjudged, name, self._in_flight, note=self.said.append).run():
            if isinstance(item, Candidate):
                self.sampled.append(item.id)
            yield item
