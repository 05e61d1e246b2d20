"""One round of rollouts on a simulated clock whose workers are killed: what that costs in time, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from erpo_ray.cluster.pool import Item, Pool, WorkerLost
from erpo_ray.engines.vllm import Finished
from erpo_ray.types import Candidate, Prompt, Request, Sampling, Verdict


class Batching:
    """Rollout workers that run all they hold side by side, as engines do; some are killed once. For times alone."""

    judge_workers = 1

    def __init__(self, random: Random, workers: int, start_s: float, kills: dict[int, float]) -> None:
        self.rollout_workers, self.now, self.kills = workers, 0.0, dict(kills)
        self._random, self._start_s, self._tickets = random, start_s, 0
        self._up_at = [start_s] * workers
        self._held: list[dict[tuple[str, int], float]] = [{} for _ in range(workers)]
        self._calls: dict[int, tuple[float, Callable[[], list[Any]]]] = {}

    def clock(self) -> float:
        return self.now

    def advance(self, worker: int, requests: Sequence[Request]) -> int:
        held, begin = self._held[worker], max(self.now, self._up_at[worker])
        for request in requests:
            held |= {(request.prompt.id, sample): begin + self._random.uniform(4, 12) for sample in request.samples}
        end = max(begin, min(held.values(), default=begin))
        if worker in self.kills and self.kills[worker] <= end:
            return self._ticket(max(self.now, self.kills.pop(worker)), self._killed)

        def done() -> list[Finished]:
            ended = [key for key, at in held.items() if at <= self.now]
            return [Finished(*key, (held.pop(key) > 0,), "", "stop", "v") for key in ended]

        return self._ticket(end, done)

    def judge(self, worker: int, items: Sequence[Item]) -> int:
        asked = [candidate.id for _, candidate in items]
        return self._ticket(self.now + 0.01 * len(asked), lambda: [Verdict(key, "none") for key in asked])

    def wait(self, tickets: Sequence[int], timeout_s: float) -> Sequence[int]:
        first = min((self._calls[ticket][0] for ticket in tickets), default=self.now)
        self.now = max(self.now, min(first, self.now + timeout_s))
        return [ticket for ticket in tickets if self._calls[ticket][0] <= self.now]

    def result(self, ticket: int) -> list[Any]:
        return self._calls.pop(ticket)[1]()

    def replace_rollout(self, worker: int) -> None:
        self._held[worker] = {}
        self._up_at[worker] = self.now + self._start_s

    def replace_judge(self, worker: int) -> None:
        raise AssertionError("no judge is killed here")

    def _ticket(self, at: float, result: Callable[[], list[Any]]) -> int:
        self._tickets += 1
        self._calls[self._tickets] = at, result
        return self._tickets

    def _killed(self) -> list[Any]:
        raise WorkerLost("killed by the simulation")


def wall(seed: int, workers: int, samples: int, in_flight: int, start_s: float, kill_rate: float) -> tuple[float, int]:
    """Simulated seconds of one round and its kills, when each worker is killed with `kill_rate` at a random time."""
    whole = start_s + samples / (workers * in_flight) * 8.0
    random = Random(seed)
    kills = {worker: random.uniform(0, whole) for worker in range(workers) if random.random() < kill_rate}
    crew = Batching(Random(seed), workers, start_s, kills)
    prompts = [Prompt(str(number), "", "benign") for number in range(samples // 4)]
    asked = [Request(prompt, (1,), (0, 1, 2, 3), Sampling(1.0, 8)) for prompt in prompts]
    seen = list(Pool(crew, asked, (), lambda prompt, sample: f"{prompt}:{sample}", in_flight, crew.clock).run())
    assert len({item.id for item in seen if isinstance(item, Candidate)}) == samples == len(seen) // 2
    return crew.now, len(kills) - len(crew.kills)
