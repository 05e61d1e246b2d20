"""Rows of one batch from their first token to their last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from erpo_ray.engines.defences.streams import Lane
from erpo_ray.types import Request, Sampling


@dataclass(slots=True)
class Row:
    """One completion: at most `limit` tokens, drawn from a stream of random numbers of its own."""

    request: Request
    sample: int
    limit: int
    generator: torch.Generator
    drawn: list[int] = field(default_factory=list)

    def finish(self, stop_ids: Sequence[int]) -> Literal["", "stop", "length"]:
        """Why the row is complete, empty while it is not."""
        if self.drawn and self.drawn[-1] in stop_ids:
            return "stop"
        return "length" if len(self.drawn) >= self.limit else ""


class Batch:
    """Rows with equal sampling in one lane; complete rows leave it, so that the others go on faster."""

    def __init__(self, lane: Lane, rows: Sequence[Row], stop_ids: Sequence[int]) -> None:
        self.rows = list(rows)
        self._lane, self._stop_ids = lane, stop_ids

    def step(self) -> list[Row]:
        """One token for every row; returns the rows that are complete with it."""
        generators = [row.generator for row in self.rows]
        tokens = choose(self._lane.logits, self.rows[0].request.sampling, generators)
        for row, token in zip(self.rows, tokens.tolist(), strict=True):
            row.drawn.append(token)
        left = [at for at, row in enumerate(self.rows) if not row.finish(self._stop_ids)]
        done = [row for row in self.rows if row.finish(self._stop_ids)]
        if left and done:
            kept = torch.tensor(left, device=tokens.device)
            self._lane.keep(kept)
            tokens = tokens[kept]
        if left:
            self._lane.feed(tokens)
        self.rows = [self.rows[at] for at in left]
        return done


def choose(logits: Tensor, sampling: Sampling, generators: Sequence[torch.Generator]) -> Tensor:
    """The next token of each row, (rows,): the most likely one at temperature 0, else drawn as `sampling` says."""
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    no_ids: Any = None
    for warper in _warpers(sampling):
        logits = warper(no_ids, logits)
    chances = logits.softmax(dim=-1)
    drawn = [torch.multinomial(row, 1, generator=own) for row, own in zip(chances, generators, strict=True)]
    return torch.cat(drawn)


def _warpers(sampling: Sampling) -> list[Any]:
    found: list[Any] = [TemperatureLogitsWarper(float(sampling.temperature))]
    if sampling.top_k:
        found.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        found.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        found.append(MinPLogitsWarper(sampling.min_p))
    return found
