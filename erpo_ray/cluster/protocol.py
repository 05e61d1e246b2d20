"""What passes between the rollout loop and its workers, whatever runs them. Knows no Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from erpo_ray.types import Candidate, Prompt, Request

Item = tuple[Prompt, Candidate]


class WorkerLost(Exception):
    """A worker died, hung or raised; the message says which and why. `with_node`: its node went, for which the worker
    cannot be blamed."""

    def __init__(self, why: str, with_node: bool = False) -> None:
        super().__init__(why)
        self.with_node = with_node


@dataclass(frozen=True, slots=True)
class Drawn:
    """How many tokens a rollout worker has drawn since its pass began, those of open completions among them."""

    tokens: int


class Crew(Protocol):
    """Rollout and judge workers, numbered from 0. A call returns a hashable ticket; its result comes by `result`.

    What `advance` finds is what is finished; a worker that can hang tells with it how many tokens it has `Drawn`.
    """

    rollout_workers: int
    judge_workers: int

    def advance(self, worker: int, requests: Sequence[Request]) -> Any:
        """With no requests, the ticket of a worker that holds nothing says that it is up."""
        ...

    def judge(self, worker: int, items: Sequence[Item]) -> Any:
        """With no items, the ticket says that the worker is up."""
        ...

    def wait(self, tickets: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        """Tickets whose result is there; none after `timeout_s`."""
        ...

    def result(self, ticket: Any) -> list[Any]:
        """What the call returned. Raises WorkerLost."""
        ...

    def replace_rollout(self, worker: int) -> None: ...
    def replace_judge(self, worker: int) -> None: ...
