"""How long a training may stand still before it counts as hung: judged by the signs that its ranks leave. Free of Ray.

No rank is called: one whose process is stopped, or that waits in a collective for another, would not answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from erpo_ray.errors import RunFailed
from erpo_ray.train import signs
from erpo_ray.train.signs import Sign

STEP_S = 120.0
"""Seconds without a sign of any rank in the middle of a step."""
FIRST_S = 1800.0
"""Seconds before the first step is done, and while a checkpoint is saved: models are read, kernels compiled, weights
gathered."""
PATIENCE = 3.0
"""A slow machine is not a hung one: longer than `STEP_S` by the slowest step so far, times this."""
MUTE_S = 15.0
"""Seconds without a beat, of a process that is stopped or out of reach."""
LOOK_S = 30.0
"""Of the time between two looks at most so much counts: the driver may have been stopped itself."""
HANGS = 3
"""Hangs in a row, without a further step in between, after which the run stops."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds, as above."""

    step_s: float = STEP_S
    first_s: float = FIRST_S
    mute_s: float = MUTE_S


LIMITS = Limits()


class Hung(RunFailed):
    """A training stands still; the message says which ranks, and since when. `step` is the last that was done."""

    def __init__(self, why: str, step: int) -> None:
        super().__init__(why)
        self.step = step


class StepPace:
    """The ranks of one training, as one: they wait for each other in each step, so one that hangs soon holds up all,
    and one that saves may do so. Pure; times in seconds of one clock."""

    def __init__(self, limits: Limits, now: float, waits_s: float = 0.0) -> None:
        """`waits_s`: how much longer than `first_s` the first sign of all may take."""
        self._limits, self._waits_s, self._looked = limits, waits_s, now
        self._signs: dict[int, Sign] = {}
        self._still, self._slowest = 0.0, 0.0
        self._mute: dict[int, float] = {}

    @property
    def step(self) -> int:
        """The last one that all ranks have done."""
        return min((sign.step for sign in self._signs.values()), default=0)

    def look(self, found: Mapping[int, Sign], now: float) -> str:
        """Why the training is late, naming ranks; empty when it is not."""
        passed, self._looked = min(now - self._looked, LOOK_S), now
        before, self._signs = self._signs, dict(found)
        got_on = any(rank not in before or _at(before[rank]) != _at(sign) for rank, sign in found.items())
        self._still = 0.0 if got_on else self._still + passed
        for rank, sign in found.items():
            beaten = rank not in before or before[rank].beats != sign.beats
            self._mute[rank] = 0.0 if beaten else self._mute[rank] + passed
            self._slowest = max(self._slowest, sign.slowest_s)
        return self._cause() if self._still > self._limit() else ""

    def rest(self) -> None:
        """Others take the place of the ranks: they are given the time of the first."""
        self._signs, self._still = {}, 0.0

    def _limit(self) -> float:
        if not self._signs:
            return self._limits.first_s + self._waits_s
        if all(sign.doing == "step" and sign.slowest_s for sign in self._signs.values()):
            return max(self._limits.step_s, PATIENCE * self._slowest)
        return self._limits.first_s

    def _cause(self) -> str:
        still = f"{self._still:.0f} s"
        if not self._signs:
            return f"no worker gave a sign for {still} after its start"
        missing = sorted(set(range(next(iter(self._signs.values())).ranks)) - self._signs.keys())
        if missing:
            return f"{_ranks(missing)} gave no sign for {still} after the start of the others"
        mute = [rank for rank in sorted(self._signs) if self._mute[rank] > self._limits.mute_s]
        if mute:
            silent = max(self._mute[rank] for rank in mute)
            return (
                f"{_ranks(mute)} gave no sign for {silent:.0f} s {self._place(mute[0])}: stopped, or its machine is "
                "out of reach"
            )
        least = min(map(_at, self._signs.values()))
        behind = [rank for rank, sign in sorted(self._signs.items()) if _at(sign) == least]
        return f"{_ranks(behind)} did not get on for {still} {self._place(behind[0])}: alive, so a collective hangs"

    def _place(self, rank: int) -> str:
        sign = self._signs[rank]
        doing = {"start": "at its start", "score": "while it scored rows", "save": f"while it saved step {sign.step}"}
        return doing.get(sign.doing, f"in step {sign.step + 1}")


class Vigil:
    """Reads the signs that the ranks of a training leave in `work`, and says what they want said."""

    def __init__(self, work: Path, limits: Limits, waits_s: float, say: Callable[[str], None]) -> None:
        signs.clear(work)
        self._work, self._say = work, say
        self._pace = StepPace(limits, time.monotonic(), waits_s)
        self._said: dict[int, Sequence[str]] = {}

    def require(self, replaced: Callable[[], bool]) -> None:
        """Hung when the training is late. `replaced`: whether its ranks are gone, and others come in their place."""
        found = signs.read(self._work)
        for rank, sign in found.items():
            for line in sign.notes[len(self._said.get(rank, ())) :]:
                self._say(line)
            self._said[rank] = sign.notes
        why = self._pace.look(found, time.monotonic())
        if why and replaced():
            self._pace.rest()
        elif why:
            raise Hung(why, self._pace.step)


def _at(sign: Sign) -> tuple[int, bool, int]:
    """How far it is: a step is saved before the next one begins."""
    return sign.step, sign.doing == "step", sign.marks


def _ranks(which: Sequence[int]) -> str:
    return f"rank {which[0]}" if len(which) == 1 else f"ranks {', '.join(map(str, which))}"
