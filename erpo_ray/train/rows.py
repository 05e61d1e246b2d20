"""Rows as the trainer sees them: token ids, checked against the length limit, in an order that wastes little padding.

Pure: nothing here loads torch.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from erpo_ray.errors import UsageError
from erpo_ray.objectives import Normaliser
from erpo_ray.types import Advantage, Contrast, Example, Pair, identity, seed_of

Row = Example | Pair | Advantage | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sequences:
    """One row of training: a context without loss and the completions behind it (one, chosen and rejected, a group)."""

    id: str
    context: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    weight: float = 1.0
    length_weight: float = 1.0
    skips: tuple[int, ...] = ()
    """Leading tokens of each completion that bear no loss; empty: none."""
    token_weights: tuple[float, ...] = ()
    """Loss weight of each token of the only completion; empty: 1 each."""
    advantages: tuple[float, ...] = ()
    """Of each completion, in a reinforce stage."""
    contrasts: tuple[Contrast, ...] = ()
    """Of the only completion; `contrast_weight` is a factor on each."""
    contrast_weight: float = 1.0

    @property
    def longest(self) -> int:
        return len(self.context) + max(map(len, self.completions))

    @property
    def tokens(self) -> int:
        return sum(len(self.context) + len(completion) for completion in self.completions)


def examples(rows: Iterable[Any], max_length: int) -> list[Sequences]:
    """Imitate rows from `Example`s or from mappings (a `datasets.Dataset`, Ray Data rows) with the same fields.

    Raises UsageError for no rows, for an empty prompt or completion, for weights or contrasts that do not fit the
    completion, and for a row longer than `max_length`: cutting it would teach an answer without its end.
    """
    found = [
        Sequences(
            _get(row, "id"),
            _ids(row, "prompt_ids"),
            (_ids(row, "completion_ids"),),
            token_weights=tuple(map(float, _get(row, "weights"))),
            contrasts=tuple(map(_contrast, _get(row, "contrasts"))),
            contrast_weight=float(_get(row, "contrast_weight")),
        )
        for row in rows
    ]
    for row in found:
        if any(not 0 <= c.at < len(row.completions[0]) or c.chosen == c.rejected for c in row.contrasts):
            raise UsageError(f"row {row.id}: a contrast lies outside the completion or is between equals; drop it")
    return _checked(found, max_length)


def pairs(rows: Iterable[Any], max_length: int) -> list[Sequences]:
    """Prefer rows from `Pair`s or mappings: completions are (chosen, rejected), the shared prefix joins the context.

    Raises UsageError as `examples` does, and for a pair whose two sides are the same.
    """
    found = [
        Sequences(
            _get(row, "id"),
            _ids(row, "prompt_ids") + _ids(row, "prefix_ids"),
            (_ids(row, "chosen_ids"), _ids(row, "rejected_ids")),
            float(_get(row, "weight")),
            float(_get(row, "length_weight")),
            (int(_get(row, "chosen_skip")), int(_get(row, "rejected_skip"))),
        )
        for row in rows
    ]
    for row in found:
        if any(not 0 <= skip < len(side) for skip, side in zip(row.skips, row.completions, strict=True) if side):
            raise UsageError(f"pair {row.id}: skips {row.skips} leave a side without a token that bears loss; drop it")
        if row.completions[0] == row.completions[1]:
            raise UsageError(f"pair {row.id}: chosen and rejected are the same tokens; drop it")
    return _checked(found, max_length)


def groups(rows: Iterable[Any], max_length: int) -> list[Sequences]:
    """Reinforce rows from `Advantage`s or mappings: all completions behind one context, one row, in order.

    Raises UsageError as `examples` does.
    """
    found: dict[tuple[int, ...], list[Any]] = {}
    for row in rows:
        found.setdefault(_ids(row, "prompt_ids") + _ids(row, "prefix_ids"), []).append(row)
    grouped = [
        Sequences(
            _get(group[0], "id"),
            context,
            tuple(_ids(row, "completion_ids") for row in group),
            advantages=tuple(float(_get(row, "advantage")) for row in group),
        )
        for context, group in found.items()
    ]
    return _checked(grouped, max_length)


def shares(row: Sequences, normalise: Normaliser) -> list[float]:
    """What a token of each completion weighs in the loss of its group: all tokens of the group add up to 1."""
    lengths = [len(completion) for completion in row.completions]
    if normalise == "token":
        return [1 / sum(lengths)] * len(lengths)
    return [1 / (len(lengths) * length) for length in lengths]


def with_skipped(row: Sequences) -> Sequences:
    """The row with what its completions skip as further completions, if they skip anything."""
    heads = (side[:skip] for side, skip in zip(row.completions, row.skips, strict=False) if skip)
    return replace(row, completions=(*row.completions, *heads))


def bearing(row: Sequences, logps: Sequence[float]) -> tuple[float, ...]:
    """Log-probability of what bears loss in each completion, from those of `with_skipped`: p(b | a) = p(ab) / p(a)."""
    sides = len(row.completions)
    heads = iter(logps[sides:])
    skips = row.skips or (0,) * sides
    return tuple(whole - next(heads) if skip else whole for whole, skip in zip(logps[:sides], skips, strict=True))


WINDOW = 8
"""Steps whose rows are sorted together: enough to fill a forward pass with rows of like length."""


def order(lengths: Sequence[int], batch_size: int, micro_batch_size: int, seed: int, epoch: int) -> list[int]:
    """Row indices of one epoch, in optimiser steps of `batch_size` made of forward passes of `micro_batch_size` rows.

    The rows are shuffled; within `WINDOW` steps each forward pass takes rows of like length, so that little is padding,
    and each step takes a short pass with a long one, so that no step sees one kind of row only. A last, smaller step
    holds what is left over. Depends on the arguments alone: every worker and every resumed run sees the same order.
    """
    rng = random.Random(seed_of("order", seed, epoch))
    indices = list(range(len(lengths)))
    rng.shuffle(indices)
    whole = len(indices) - len(indices) % batch_size
    steps: list[list[int]] = []
    for at in range(0, whole, WINDOW * batch_size):
        rows = sorted(indices[at : min(at + WINDOW * batch_size, whole)], key=lambda i: (lengths[i], i))
        passes = [rows[at : at + micro_batch_size] for at in range(0, len(rows), micro_batch_size)]
        steps += _dealt(passes, len(rows) // batch_size, rng)
    return [index for step in steps for index in step] + sorted(indices[whole:], key=lambda i: (lengths[i], i))


def _dealt(passes: Sequence[list[int]], count: int, rng: random.Random) -> list[list[int]]:
    """Forward passes, short to long, dealt to `count` steps to and fro, the steps in a random order."""
    steps: list[list[int]] = [[] for _ in range(count)]
    for at in range(0, len(passes), count):
        turn = passes[at : at + count]
        for step, rows in zip(steps if at // count % 2 == 0 else reversed(steps), turn, strict=True):
            step += rows
    rng.shuffle(steps)
    return steps


def micro_batch(batch_size: int, micro_batch_size: int, workers: int) -> tuple[int, int]:
    """(rows a forward pass, passes an optimiser step) on each worker, so that a step takes exactly `batch_size` rows.

    The first is the largest divisor of a worker's share that is no larger than `micro_batch_size`.
    """
    share, rest = divmod(batch_size, workers)
    if rest or not share:
        raise UsageError(
            f"batch_size {batch_size} cannot be shared evenly by {workers} training workers; "
            f"set it to a multiple of {workers} or change cluster.train_workers"
        )
    size = next(size for size in range(min(share, micro_batch_size), 0, -1) if share % size == 0)
    return size, share // size


def fingerprint(rows: Sequence[Sequences]) -> str:
    """A short hash of the rows: a checkpoint of other rows is not continued."""
    return identity(
        *(
            part
            for row in rows
            for part in (
                row.id,
                row.context,
                row.completions,
                row.weight,
                row.length_weight,
                row.skips,
                row.token_weights,
                *((row.advantages,) if row.advantages else ()),
                row.contrasts,
                row.contrast_weight,
            )
        )
    )


class Order:
    """The sampler behind `order`; the trainer calls `set_epoch` before each pass.

    Workers take `together` rows at once: up to a multiple of these come indices behind the last row, of spare ones.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, micro_batch_size: int, seed: int, together: int = 1
    ) -> None:
        self._lengths, self._seed, self._epoch = lengths, seed, 0
        self._sizes = batch_size, micro_batch_size
        self._spare = -len(lengths) % together

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths) + self._spare

    def __iter__(self) -> Iterator[int]:
        yield from order(self._lengths, *self._sizes, self._seed, self._epoch)
        yield from range(len(self._lengths), len(self))


def _checked(rows: list[Sequences], max_length: int) -> list[Sequences]:
    if not rows:
        raise UsageError("no rows to train on; the stage before this one left nothing, see its left_out.jsonl")
    for row in rows:
        if not row.context or not all(row.completions):
            raise UsageError(f"row {row.id}: an empty prompt or completion cannot be trained on; drop it")
        if row.token_weights and len(row.token_weights) != len(row.completions[0]):
            raise UsageError(
                f"row {row.id}: {len(row.token_weights)} weights for {len(row.completions[0])} completion tokens; "
                "give one each or none"
            )
        if row.longest > max_length:
            raise UsageError(
                f"row {row.id} has {row.longest} tokens, the limit is {max_length}; "
                "raise model.max_length or leave the row out (rows are never cut)"
            )
    return rows


def _get(row: Row, name: str) -> Any:
    return row[name] if isinstance(row, Mapping) else getattr(row, name)


def _contrast(found: Any) -> Contrast:
    at, chosen, rejected = (int(_get(found, name)) for name in ("at", "chosen", "rejected"))
    return Contrast(at, chosen, rejected)


def _ids(row: Row, name: str) -> tuple[int, ...]:
    return tuple(int(token) for token in _get(row, name))
