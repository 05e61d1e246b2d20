"""`erpo export RUN DIR --to trl`: the pairs of each round as text, for `trl dpo` and whatever else reads its format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from erpo_ray.commands.common import policy_of
from erpo_ray.errors import UsageError
from erpo_ray.rundir import read_rows
from erpo_ray.types import Pair, Prompt

Message = dict[str, str]
Row = dict[str, list[Message]]

_ROWS = 1024
"""Rows of one row group: all that is held in memory."""


def write(run: Path, folder: Path) -> None:
    """Write `STAGE.parquet` for each stage with pairs."""
    from erpo_ray.engines.renderer import Renderer

    found = sorted((run / "stages").glob("*/pairs.jsonl"))
    if not found:
        raise UsageError(
            f"{run}: has no pairs; prefer stages write them: wait for the first, if any (erpo status {run})"
        )
    prompts = {row.id: row for row in read_rows(run / "stages" / "labels" / "prompts.jsonl", Prompt)}
    decode = Renderer(policy_of(run)).decode
    for path in found:
        put(folder / f"{path.parent.name}.parquet", rows(read_rows(path, Pair), prompts, decode))


def rows(pairs: Iterable[Pair], prompts: Mapping[str, Prompt], decode: Callable[[Sequence[int]], str]) -> Iterator[Row]:
    """Pairs in TRL's conversational format with an explicit prompt. A shared prefix is part of both answers."""
    for pair in pairs:
        yield {
            "prompt": [{"role": "user", "content": prompts[pair.prompt_id].text}],
            "chosen": [{"role": "assistant", "content": decode((*pair.prefix_ids, *pair.chosen_ids))}],
            "rejected": [{"role": "assistant", "content": decode((*pair.prefix_ids, *pair.rejected_ids))}],
        }


def put(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as Parquet, a group of them at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    schema = pa.schema([(name, messages) for name in ("prompt", "chosen", "rejected")])
    with pq.ParquetWriter(path, schema) as writer:
        left = iter(rows)
        while group := list(islice(left, _ROWS)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
