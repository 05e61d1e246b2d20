"""What passes between the driver and the ranks of a worker group. Knows no Ray."""

from __future__ import annotations

import asyncio
from typing import Any

from erpo_ray.cluster.job import Job, Scoring
from erpo_ray.usage import Usage, usage

Task = Job | Scoring | None
"""None: there will be no other."""
Metrics = dict[str, float] | None
"""None: of a training that was asked to stop."""


class Desk:
    """Where the driver leaves jobs, which every rank takes in turn, and rank 0 their metrics.

    A job that every rank is done with is forgotten: what is to be scored comes with its rows.
    """

    def __init__(self) -> None:
        self._jobs: dict[int, Task] = {}
        self._left = 0
        self._reached: dict[int, int] = {}
        self._results: list[Metrics] = []
        self._held: dict[int, Usage] = {}
        self._ranks: dict[int, Any] = {}
        self._news = asyncio.Condition()

    async def enrol(self, rank: int, worker: Any) -> None:
        """The worker of that rank, by which it can be ended."""
        self._ranks[rank] = worker

    async def ranks(self) -> list[Any]:
        """The workers that are up, or were."""
        return [*self._ranks.values()]

    async def leave(self, job: Task) -> None:
        """A job, or None when there will be no other."""
        async with self._news:
            self._jobs[self._left] = job
            self._left += 1
            self._news.notify_all()

    async def begin(self) -> int:
        """A worker group starts, if need be in the place of one whose ranks may have been further than its first. How
        many jobs have their metrics?"""
        self._reached.clear()
        return len(self._results)

    async def take(self, number: int, rank: int, ranks: int) -> Task:
        """The job of that number, once it is there, for one of so many ranks, which is done with those before it."""
        async with self._news:
            self._reached[rank] = number
            if len(self._reached) == ranks:
                done = min(self._reached.values())
                self._jobs = {left: job for left, job in self._jobs.items() if left >= done}
            await self._news.wait_for(lambda: self._left > number)
            return self._jobs[number]

    async def finish(self, metrics: Metrics) -> None:
        """The metrics of the next job in turn."""
        async with self._news:
            self._results.append(metrics)
            self._news.notify_all()

    async def result(self, number: int) -> Metrics:
        """The metrics of the job of that number, once they are there."""
        async with self._news:
            await self._news.wait_for(lambda: len(self._results) > number)
            return self._results[number]

    async def hold(self, rank: int, held: Usage) -> None:
        """What the worker of that rank holds now."""
        self._held[rank] = held

    async def held(self) -> dict[str, Usage]:
        """By name: this process, and the workers by rank."""
        return {"desk": usage()} | {f"trainer-{rank}": self._held[rank] for rank in sorted(self._held)}
