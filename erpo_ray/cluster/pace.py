"""How long a rollout worker may stand still before it counts as hung: judged by its tokens. Pure.

A ping is no sign of health: an engine whose scheduler is stuck answers it. A worker tells with each answer how many
tokens it has drawn, and one whose process or interpreter is stuck gives none.
"""

from __future__ import annotations

from dataclasses import dataclass

STALL_S = 30.0
"""Seconds without a token, of a worker that has drawn some."""
FIRST_S = 300.0
"""Seconds to the first token, of a worker that is up: prompts are read first, and kernels may have to be compiled."""
PATIENCE = 3.0
"""A slow machine is not a hung one: longer than `STALL_S` by what was seen, times this."""


@dataclass(slots=True)
class _Mark:
    """When a worker last got on, and where it stood."""

    since: float = 0.0
    tokens: int = 0
    begun: bool = False


class Pace:
    """The rollout workers of one pass, each from when it has something to do. Times in seconds of one clock."""

    def __init__(self, workers: int) -> None:
        self._marks = [_Mark() for _ in range(workers)]
        self._longest = 0.0

    def asked(self, worker: int, now: float) -> None:
        """The worker has something to do from now on, and had nothing before."""
        self._marks[worker].since = now

    def told(self, worker: int, tokens: int | None, finished: bool, now: float) -> None:
        """An answer came, with the tokens drawn since the pass began; None of a worker that does not count them.

        `finished`: something was finished, if only by an error that drew nothing.
        """
        mark = self._marks[worker]
        if tokens == mark.tokens and not finished:
            return
        self._longest = max(self._longest, now - mark.since)
        self._marks[worker] = _Mark(now, mark.tokens if tokens is None else tokens, True)

    def replaced(self, worker: int, now: float) -> None:
        """Another one takes its place, which has drawn nothing."""
        self._marks[worker] = _Mark(now)

    def stands(self, worker: int, now: float) -> float:
        """Seconds since it last got on, when they are too many; 0 otherwise."""
        mark = self._marks[worker]
        limit = max(STALL_S if mark.begun else FIRST_S, PATIENCE * self._longest)
        return now - mark.since if now - mark.since > limit else 0.0

    def tokens(self, worker: int) -> int:
        """Drawn by it in this pass, as far as it told."""
        return self._marks[worker].tokens
