"""Ray Data between files and their readers: prompt sources for the driver, a run's artefacts for the trainer."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from erpo_ray import errors
from erpo_ray.config import Data, Source
from erpo_ray.prompts import loaders, mixing, seeds
from erpo_ray.rundir.lines import artefact_rows
from erpo_ray.types import Prompt, decode, encode

T = TypeVar("T")
_READ_CPUS = 0.25
"""Of a task that reads rows: trainers hold half of the CPUs, and the last node of a cluster may have no whole one
left."""


def read_prompts(data: Data, categories: Sequence[str] = (), seed: int = 0) -> mixing.Mix:
    """What `mixing.gather` returns, with every file read by a task of its own: files may be large or far away.

    Raises UsageError and EnvironmentFault of the first source at fault, as reading here would.
    """
    root = str(Path(data.root).expanduser().absolute())
    apart = [source for source in (*data.evaluate, *data.train) if source.path not in seeds.NAMES]
    asked = list(dict.fromkeys(source.model_dump_json() for source in apart))
    found = _files(asked, root, tuple(categories)) if asked else {}

    def read(source: Source, root: str, categories: Collection[str]) -> list[Prompt]:
        embedded = source.path in seeds.NAMES
        return loaders.bare(source, root, categories) if embedded else found[source.model_dump_json()]

    return mixing.gather(data, categories, seed, read)


def _files(sources: Sequence[str], root: str, categories: tuple[str, ...]) -> dict[str, list[Prompt]]:
    """Prompts of each source, which are given as JSON."""
    import ray.data

    tasks = ray.data.from_items([{"source": source} for source in sources], override_num_blocks=len(sources))
    found: dict[str, list[Prompt]] = {source: [] for source in sources}
    faults: dict[str, errors.ErpoError] = {}
    for row in tasks.flat_map(partial(_read, root, categories)).iter_rows():
        if row["fault"]:
            faults[row["source"]] = getattr(errors, row["fault"])(row["row"])
        else:
            found[row["source"]].append(decode(row["row"], Prompt))
    for source in sources:
        if source in faults:
            raise faults[source]
    return found


def rows(path: Path, kind: type[T]) -> Iterator[T]:
    """Rows of a JSON-lines artefact, in order; every checksum is verified again where the row is used.

    Ray Data's own text reader is not used: it also breaks lines at U+2028 and its like, which stand inside texts.
    """
    import ray.data

    files = ray.data.read_binary_files(str(path), num_cpus=_READ_CPUS)
    lines: Any = (row["line"] for row in files.flat_map(_lines, num_cpus=_READ_CPUS).iter_rows())
    return artefact_rows(lines, kind, path)


def _lines(file: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"line": line} for line in file["bytes"].splitlines(keepends=True)]


def _read(root: str, categories: tuple[str, ...], task: dict[str, Any]) -> list[dict[str, Any]]:
    """Prompts of one source as rows. A fault is a row too: Ray Data would wrap an exception in its own."""
    try:
        prompts = loaders.bare(Source.model_validate_json(task["source"]), root, categories)
    except errors.ErpoError as error:
        return [{"source": task["source"], "fault": type(error).__name__, "row": str(error)}]
    return [{"source": task["source"], "fault": "", "row": encode(prompt).decode()} for prompt in prompts]
