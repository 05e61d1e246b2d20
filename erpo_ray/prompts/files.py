"""Rows of prompt files and hub data sets, each with the place it stands at, so that errors can name it."""

from __future__ import annotations

import base64
import codecs
import gzip
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from erpo_ray.config import Source
from erpo_ray.documents import missing, reading, require_file
from erpo_ray.errors import EnvironmentFault, UsageError
from erpo_ray.prompts import seeds

Row = tuple[str, dict[str, Any]]
"""Place (`FILE:LINE`) and columns."""

MAX_LINE = 1 << 20
"""Longest line read, in bytes."""

_BOMS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def _in_base64(word: bytes, shift: int) -> bytes:
    """What base64 makes of `word` alone where `shift` bytes of a group of three stand before it."""
    return base64.b64encode(bytes(shift) + word)[(0, 2, 3)[shift] : (shift + len(word)) * 8 // 6]


_EXTENSION = tuple(_in_base64(b"ARROW:extension:name", shift) for shift in range(3))
_HUB = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]*){0,2}")


def rows(source: Source, root: str) -> Iterator[Row]:
    """Rows of an embedded set, of JSONL (plain or .gz) or Parquet files, or of a hub data set
    (`owner/name[:subset[:split]]`).

    A hub data set needs the `datasets` package and, the first time, a network. Raises UsageError for what cannot be
    read, EnvironmentFault for what cannot be fetched.
    """
    if source.path in seeds.NAMES:
        wanted = source.split
        yield from (row for row in seeds.rows(source.path) if wanted is None or row[1]["split"] == wanted)
        return
    paths = resolve(source.path, root)
    if not paths:
        yield from _hub(source)
    for path in paths:
        yield from read_file(path)


def resolve(name: str, root: str) -> list[Path]:
    """Files that a path or glob names, starting from `root`; none when the name can only be a hub id."""
    path = Path(root).expanduser() / Path(name).expanduser()
    with reading(path, f"name its files, for example {path}/*.jsonl"):
        return _resolved(name, path, root)


def _resolved(name: str, path: Path, root: str) -> list[Path]:
    if path.is_file():
        return [path]
    if any(sign in name for sign in "*?["):
        found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        if not found:
            raise UsageError(
                f"{path}: no file matches; check the pattern, or data.root (now {root or 'the working folder'})"
            )
        return found
    if path.is_dir():
        raise IsADirectoryError
    if _HUB.fullmatch(name) and not name.endswith((".jsonl", ".json", ".gz", ".parquet")):
        return []
    raise UsageError(f"{missing(path)} (relative paths start from data.root, now {root or 'the working folder'})")


def read_file(path: Path) -> Iterator[Row]:
    """Rows of one JSONL (plain or .gz) or Parquet file."""
    if path.suffix == ".parquet":
        return _parquet(path)
    if path.name.endswith((".jsonl", ".jsonl.gz", ".json", ".json.gz")):
        return _jsonl(path)
    raise UsageError(f"{path}: found the ending {path.suffix!r}; prompt files end in .jsonl, .jsonl.gz or .parquet")


def _jsonl(path: Path) -> Iterator[Row]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rb") as lines:
            while raw := lines.readline(MAX_LINE + 1):
                number += 1
                if raw.strip():
                    yield f"{path}:{number}", _row(raw, f"{path}:{number}")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UsageError(
            f"{path}:{number + 1}: the gzip stream is damaged or cut short; copy the file again"
        ) from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def _row(raw: bytes, place: str) -> dict[str, Any]:
    if len(raw) > MAX_LINE:
        raise UsageError(f"{place}: found a line of more than {MAX_LINE} bytes; put each prompt on a line of its own")
    if raw.startswith(_BOMS):
        raise UsageError(f"{place}: found a byte order mark at the start; save the file as UTF-8 without one")
    try:
        raw.decode("utf-8")
        row = msgspec.json.decode(raw)
    except UnicodeDecodeError as error:
        found = f"byte {raw[error.start]:#04x} at column {error.start + 1}"
        raise UsageError(f"{place}: found {found}, which is not UTF-8; save the file as UTF-8") from error
    except (msgspec.DecodeError, RecursionError) as error:
        shown = raw[:60].decode("utf-8", "replace").strip()
        raise UsageError(f"{place}: found {shown!r}, which is not JSON ({error}); write one object a line") from error
    if not isinstance(row, dict):
        raise UsageError(f"{place}: found a JSON {type(row).__name__}, not an object; write one {{...}} a line")
    return row


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    require_file(path, "name a Parquet file")
    try:
        _require_plain(path)
        for batch in parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path}: not a whole Parquet file ({reason}); write it again") from error


def _require_plain(path: Path) -> None:
    """UsageError for extension types: merely to open such a file is to run what this process has registered for them.

    The schema stands in the footer in base64, so the mark of such a type has one of three forms there.
    """
    with path.open("rb") as stream:
        end = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, end - 8))
        length = int.from_bytes(stream.read(4), "little")
        stream.seek(max(0, end - 8 - length))
        footer = stream.read(length)
    if any(form in footer for form in _EXTENSION):
        raise UsageError(f"{path}: found a column of an extension type; write plain columns of text and numbers")


def _hub(source: Source) -> Iterator[Row]:
    import datasets

    name, subset, part = (*source.path.split(":"), "", "")[:3]
    try:
        parts: Any = datasets.load_dataset(name, subset or None)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EnvironmentFault(
            f"{source.path}: neither a file here nor a data set that can be fetched ({reason}); "
            "copy it to this machine and give its path, or fetch it once with HF_HUB_OFFLINE=0"
        ) from error
    usual = {"train": ("train",), "evaluate": ("test", "validation", "train"), None: tuple(parts)}[source.split]
    split = next((split for split in ((part,) if part else usual) if split in parts), None)
    if split is None:
        asked = part or source.split
        raise UsageError(f"{source.path}: found splits {', '.join(parts)}; none is a {asked} split")
    for number, row in enumerate(parts[split], 1):
        yield f"{source.path} {split} row {number}", dict(row)
