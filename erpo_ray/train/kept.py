"""Log-probabilities of completions, kept in a file: what was scored once is not scored again.

One file a reference, `VERSION.jsonl`, of checksummed lines as a ledger's, each a `Scored`. A torn or damaged line is
not believed: what it told of is scored anew. Pure: nothing here loads torch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from erpo_ray.rundir.lines import ledger_line, typed, verify
from erpo_ray.types import encode, identity

Logp = float | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """The log-probability of a completion of `tokens` tokens in nats: their sum, or of each of them.

    `key` says of which, as `key` does.
    """

    key: str
    tokens: int
    logp: Logp


def key(version: str, bf16: bool, context: Sequence[int], completion: Sequence[int], by_token: bool = False) -> str:
    """The name of a log-probability by all it depends on: the reference's weights, the arithmetic, the token ids."""
    return identity(version, bf16, tuple(context), tuple(completion), *(("by token",) if by_token else ()))


def file(folder: Path, version: str) -> Path:
    """Where the log-probabilities under that reference are kept."""
    return folder / f"{version}.jsonl"


def read(path: Path, wanted: Mapping[str, int]) -> dict[str, Logp]:
    """Those of the `wanted` (tokens of the completion by key) that are in the file, by key; none without a file."""
    found: dict[str, Logp] = {}
    if not path.exists():
        return found
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            if verified := verify(raw):
                row = typed(verified[0], Scored, path, number)
                if wanted.get(row.key) == row.tokens:
                    found[row.key] = row.logp
    return found


def append(path: Path, rows: Iterable[Scored]) -> None:
    """Add rows, on disk when this returns. One with what is not a finite number is left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [ledger_line(encode(row), 0) for row in rows if _finite(row.logp)]
    with path.open("a+b") as stream:
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                # A crash tore the last line: what follows it must not become a part of it.
                lines.insert(0, b"\n")
        stream.write(b"".join(lines))
        stream.flush()
        os.fsync(stream.fileno())


def _finite(logp: Logp) -> bool:
    return all(map(math.isfinite, logp if isinstance(logp, tuple) else (logp,)))
