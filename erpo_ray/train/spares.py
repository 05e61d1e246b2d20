"""Spare rows, which bear no loss: ranks take as many passes each, whatever number of rows is left over.

accelerate would fill up with rows from the begin of the epoch, which were trained on twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from erpo_ray.train.packed import Batch

Row = dict[str, Any]


class Spared(Dataset[Row | None]):
    """The rows by their index; whatever lies behind the last is spare."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row | None:
        return self._rows[index] if index < len(self) else None


def without(collate: Callable[[list[Row]], Batch], any_row: Row, found: Sequence[Row | None]) -> Batch:
    """The batch without its spare rows, and in `rows` how many others it has.

    One of spare rows alone has some row, for ranks have to compute together: nothing of it may count.
    """
    real = [row for row in found if row is not None]
    batch = collate(real or [any_row]) | {"rows": torch.tensor(len(real))}
    if "labels" in batch and not real:
        batch["labels"] = torch.full_like(batch["labels"], -100)
    return batch
