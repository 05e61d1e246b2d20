"""Engines and judges that only sleep, on a clock that does not wait for them: many workers in one process.

The clock counts the seconds that the driver itself takes, computing or waiting for the disk, and jumps over those in
which it waits for workers. What the simulation takes is not counted, nor what other processes take from this one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

from erpo_ray.cluster.pool import Item
from erpo_ray.engines.vllm import BUDGET_S, SOON_S, SOON_SHARE, Finished
from erpo_ray.rundir import Files
from erpo_ray.types import Request, Scores, Verdict

_POOL = 1 << 16
_TEXT = "Assessment: a plain question about locks. Path: answer. Pins inside the lock must line up before it turns. "


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of completions in tokens: log-normal about `median`, cut to [8, `longest`]. `sigma` 0 is one length."""

    median: float
    sigma: float
    longest: int

    def draw(self, random: Random) -> int:
        return max(8, min(self.longest, int(self.median * random.lognormvariate(0.0, self.sigma))))


@dataclass(slots=True)
class Engine:
    """Draws `slots` completions at once; what it holds beyond waits. Its time passes only while it is called."""

    slots: int
    now: float = 0.0
    busy: float = 0.0
    running: list[tuple[float, int, Finished]] = field(default_factory=list)
    waiting: deque[tuple[float, Finished]] = field(default_factory=deque)
    begun: int = 0

    def advance(self, new: Iterable[tuple[float, Finished]]) -> tuple[float, list[Finished]]:
        """Seconds this call takes, as many as a real engine's, and what it finishes.

        `new` is (seconds a completion takes, completion).
        """
        self.waiting.extend(new)
        begun, done = self.now, []
        soon, end, many = begun + SOON_S, begun + BUDGET_S, max(1, self.slots // SOON_SHARE)
        self._fill()
        while self.running and self.running[0][0] <= (soon if len(done) >= many else end):
            self._pass(self.running[0][0])
            done.append(heappop(self.running)[2])
            self._fill()
        if self.running:
            self._pass(max(self.now, soon) if len(done) >= many else end)
        return self.now - begun, done

    def _fill(self) -> None:
        while self.waiting and len(self.running) < self.slots:
            seconds, one = self.waiting.popleft()
            self.begun += 1
            heappush(self.running, (self.now + seconds, self.begun, one))

    def _pass(self, moment: float) -> None:
        self.busy += len(self.running) * (moment - self.now)
        self.now = moment


@dataclass(frozen=True, slots=True)
class Span:
    """One call of `advance`: when it ran on the clock, and the seconds its slots were busy."""

    begun: float
    ended: float
    busy: float


class Disk(Files):
    """Real files; `waited` counts the seconds of its syncs in which this process did not compute."""

    waited = 0.0

    def sync(self, path: Path) -> None:
        wall, computed = time.perf_counter(), time.process_time()
        super().sync(path)
        self.waited += time.perf_counter() - wall - (time.process_time() - computed)


@dataclass(frozen=True, slots=True)
class Load:
    """What is simulated: engines of so many `slots`, judges, lengths, and what a token and a verdict take."""

    workers: int
    slots: int
    judges: int
    lengths: Lengths
    token_s: float
    verdict_s: float


class Sleepers:
    """A crew for the pool, whose driver writes to `disk`. `computed` is the driver's CPU seconds so far, `tokens` what
    was asked to be drawn."""

    def __init__(self, load: Load, disk: Disk) -> None:
        self.rollout_workers, self.judge_workers = load.workers, load.judges
        self.spans: list[Span] = []
        self.computed = 0.0
        self.tokens = 0
        self._load, self._disk = load, disk
        self._random = Random(0)
        self._ids = [self._random.randrange(49152) for _ in range(_POOL + load.lengths.longest)]
        self._text = _TEXT * (load.lengths.longest * 4 // len(_TEXT) + 2)
        self._engines = [Engine(load.slots) for _ in range(load.workers)]
        self._results: dict[int, tuple[float, list[Any]]] = {}
        self._tickets = count()
        self._now = 0.0
        self._since = time.process_time(), disk.waited

    def now(self) -> float:
        """The clock."""
        return self._now + sum(self._spent())

    def advance(self, worker: int, requests: Sequence[Request]) -> int:
        begun = self._enter()
        engine = self._engines[worker]
        busy = engine.busy
        new = [self._completion(request.prompt.id, sample) for request in requests for sample in request.samples]
        seconds, done = engine.advance(new)
        self.spans.append(Span(begun, begun + seconds, engine.busy - busy))
        return self._leave(self._ticket(begun + seconds, done))

    def judge(self, worker: int, items: Sequence[Item]) -> int:
        begun = self._enter()
        verdicts = [
            Verdict(candidate.id, "sleep", Scores(1.0, 0.5, len(candidate.token_ids)), well_formed=True)
            for _, candidate in items
        ]
        return self._leave(self._ticket(begun + self._load.verdict_s * len(items), verdicts))

    def wait(self, tickets: Sequence[int], timeout_s: float) -> Sequence[int]:
        begun = self._enter()
        first = min(self._results[ticket][0] for ticket in tickets)
        self._now = max(begun, min(first, begun + timeout_s))
        return self._leave([ticket for ticket in tickets if self._results[ticket][0] <= self._now])

    def result(self, ticket: int) -> list[Any]:
        return self._results.pop(ticket)[1]

    def replace_rollout(self, worker: int) -> None:
        raise AssertionError("sleepers are never lost")

    replace_judge = replace_rollout

    def _completion(self, prompt_id: str, sample: int) -> tuple[float, Finished]:
        length = self._load.lengths.draw(self._random)
        self.tokens += length
        start = self._random.randrange(_POOL)
        ids, text = tuple(self._ids[start : start + length]), self._text[start % len(_TEXT) :][: length * 4]
        seconds = length * self._load.token_s
        return seconds, Finished(prompt_id, sample, ids, text, "stop", "0" * 16, seconds=round(seconds, 3))

    def _ticket(self, due: float, result: list[Any]) -> int:
        ticket = next(self._tickets)
        self._results[ticket] = due, result
        return ticket

    def _spent(self) -> tuple[float, float]:
        """What the driver has computed and waited for the disk since it has the word."""
        computed, waited = self._since
        return time.process_time() - computed, self._disk.waited - waited

    def _enter(self) -> float:
        """The simulation has the word: what the driver took goes onto the clock."""
        computed, waited = self._spent()
        self.computed += computed
        self._now += computed + waited
        return self._now

    def _leave(self, value: Any) -> Any:
        self._since = time.process_time(), self._disk.waited
        return value
