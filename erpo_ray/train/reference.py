"""Log-probabilities under the policy that a training is held against, each computed once and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from transformers import PreTrainedModel

from erpo_ray.objectives import Training
from erpo_ray.train import fit, kept, models
from erpo_ray.train.forward import sequence_logps, sequence_token_logps
from erpo_ray.train.rows import Sequences
from erpo_ray.types import Policy

Logps = tuple[float, ...]
Load = Callable[[], PreTrainedModel]


def logps(
    load: Load, version: str, rows: Sequence[Sequences], training: Training, folder: Path | None = None
) -> list[Logps]:
    """Log-probabilities of the completions of every row, (chosen, rejected) of a pair, under the reference `version`.

    What `folder` keeps is read, the rest is scored and kept there too: each worker scores its share, rank 0 reads and
    writes, all get all. `load` gives the reference's model; it is called only when something is to be scored.
    """
    return _scored(load, version, rows, training, folder, by_token=False)


def token_logps(
    load: Load, version: str, rows: Sequence[Sequences], training: Training, folder: Path | None = None
) -> list[tuple[Logps, ...]]:
    """As `logps`, of each token of the completions."""
    return _scored(load, version, rows, training, folder, by_token=True)


def _scored(
    load: Load, version: str, rows: Sequence[Sequences], training: Training, folder: Path | None, by_token: bool
) -> list[tuple[Any, ...]]:
    keys = [[kept.key(version, training.bf16, row.context, each, by_token) for each in row.completions] for row in rows]
    tokens = {name: len(each) for names, row in zip(keys, rows, strict=True) for name, each in _named(names, row)}
    known: dict[str, Any] = fit.of_first(lambda: kept.read(kept.file(folder, version), tokens)) if folder else {}
    asked: list[tuple[list[str], Sequences]] = []
    claimed = set(known)
    for names, row in zip(keys, rows, strict=True):
        new = {name: each for name, each in _named(names, row) if name not in claimed}
        if new:
            asked.append((list(new), replace(row, completions=tuple(new.values()))))
            claimed |= new.keys()
    if asked:
        score = sequence_token_logps if by_token else sequence_logps
        values = _shared(score, load(), [row for _, row in asked], training)
        found = {
            name: value
            for (names, _), row in zip(asked, values, strict=True)
            for name, value in zip(names, row, strict=True)
        }
        if folder and fit.workers()[0] == 0:
            kept.append(
                kept.file(folder, version), (kept.Scored(name, tokens[name], logp) for name, logp in found.items())
            )
        known |= found
    return [tuple(known[name] for name in names) for names in keys]


class Referee:
    """Scores rows under a reference into a folder, as they come; its model stays loaded in between."""

    def __init__(self) -> None:
        self._held: tuple[str, PreTrainedModel] | None = None

    def score(
        self, reference: Policy, rows: Sequence[Sequences], training: Training, folder: Path, by_token: bool
    ) -> dict[str, float]:
        """Keep the log-probabilities of all completions; return how many there are."""
        with fit.all_cores():
            able = fit.able(training)
            found = _scored(lambda: self._model(reference), reference.version, rows, able, folder, by_token)
        return {"scored": float(sum(map(len, found)))}

    def rest(self) -> None:
        """Give the model's memory back."""
        if self._held:
            self._held = None
            models.release()

    def _model(self, reference: Policy) -> PreTrainedModel:
        if self._held is None or self._held[0] != reference.version:
            self.rest()
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self._held = reference.version, models.load(reference.path, device=device)
        return self._held[1]


def _named(names: Sequence[str], row: Sequences) -> zip[tuple[str, tuple[int, ...]]]:
    return zip(names, row.completions, strict=True)


def _shared(
    score: Callable[..., list[Any]], model: PreTrainedModel, rows: Sequence[Sequences], training: Training
) -> list[Any]:
    """Of every row; each worker scores its share, all get all."""
    rank, world = fit.workers()
    share = score(model, rows[rank::world], training.micro_batch_size, training.bf16)
    shares: list[Any] = [share]
    if world > 1:
        shares = [None] * world
        torch.distributed.all_gather_object(shares, share)
    return [shares[at % world][at // world] for at in range(len(rows))]
