"""Checksummed JSON lines, readable with `jq .row`: the bytes of every artefact and ledger.

A ledger line stands alone, `{"crc":"0f...","epoch":2,"row":{...}}`, because a ledger grows and may lose its end.
An artefact is written whole, `{"crc":"0f...","of":160,"row":{...}}`: it says how many rows there are and each checksum
continues the one before, so a lost, doubled or moved line is seen as well. Without rows it is `{"crc":"0f...","of":0}`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from erpo_ray.errors import UsageError
from erpo_ray.types import UNREADABLE, decode

T = TypeVar("T")
_HEAD = b'{"crc":"'
_BODY = len(_HEAD) + 8 + len(b'",')


class Line(msgspec.Struct):
    """A verified line: `row` is its JSON, empty in a line that only marks something."""

    row: msgspec.Raw = msgspec.Raw(b"")
    epoch: int = 0
    of: int = -1


def _checked(body: bytes, seed: int = 0) -> tuple[bytes, int]:
    crc = zlib.crc32(body, seed)
    return b'%s%08x",%s}\n' % (_HEAD, crc, body), crc


def ledger_line(row: bytes, epoch: int) -> bytes:
    """One line for a JSON row; without a row, a mark that this epoch has begun."""
    return _checked(b'"epoch":%d,"row":%s' % (epoch, row) if row else b'"epoch":%d' % epoch)[0]


def artefact(rows: list[bytes]) -> bytes:
    """The contents of a whole file for JSON rows."""
    if not rows:
        return _checked(b'"of":0')[0]
    lines, crc = [], 0
    for row in rows:
        line, crc = _checked(b'"of":%d,"row":%s' % (len(rows), row), crc)
        lines.append(line)
    return b"".join(lines)


def verify(line: bytes, seed: int = 0) -> tuple[Line, int] | None:
    """The line and its checksum, None when they disagree or it is no such line.

    `seed` is the checksum of the line before, in an artefact.
    """
    body = line[_BODY:-2]
    if line != (checked := _checked(body, seed))[0]:
        return None
    try:
        return msgspec.json.decode(line, type=Line), checked[1]
    except UNREADABLE:
        return None


def damaged(path: Path, number: int, found: str) -> UsageError:
    return UsageError(
        f"{path}, line {number}: {found}. Restore the file from a copy, or move {path.parent} and what came after it "
        "away and start the same command again; nothing was changed"
    )


def typed(line: Line, kind: type[T], path: Path, number: int) -> T:
    """The row as `kind`."""
    try:
        return decode(bytes(line.row), kind)
    except UNREADABLE as error:
        raise damaged(path, number, f"not a row of this version of erpo_ray ({error})") from error


def artefact_rows(stream: BinaryIO, kind: type[T], path: Path) -> Iterator[T]:
    """Rows of an artefact, in order; `path` is for messages. UsageError when a byte of it changed or is missing."""
    number, expected, crc = 0, None, 0
    for number, raw in enumerate(stream, 1):
        verified = verify(raw, crc)
        if verified is None:
            raise damaged(path, number, "damaged (its checksum does not fit)")
        line, crc = verified
        expected = line.of
        if expected:
            yield typed(line, kind, path, number)
    if expected is None:
        raise damaged(path, 1, "the file is empty")
    if number != max(1, expected):
        raise damaged(path, number, f"the file ends here, at row {number} of {expected}")


def read_rows(path: Path, kind: type[T]) -> Iterator[T]:
    """Rows of an artefact such as `pairs.jsonl`, for whoever is handed only its path."""
    with path.open("rb") as stream:
        yield from artefact_rows(stream, kind, path)


def ledger_rows(path: Path, kind: type[T]) -> Iterator[T]:
    """Rows of a ledger that another process may be writing to; none when it is not there.

    An end that is not a whole line is passed over, as are lines of a fenced driver; damage inside is a UsageError.
    """
    if not path.exists():
        return
    newest = 0
    with path.open("rb") as stream:
        number, following = 1, next(stream, b"")
        while raw := following:
            following = next(stream, b"")
            verified = verify(raw)
            if verified is None:
                if not following:
                    return
                raise damaged(path, number, "damaged (its checksum does not fit)")
            line = verified[0]
            newest = max(newest, line.epoch)
            if line.row and line.epoch == newest:
                yield typed(line, kind, path, number)
            number += 1


def json_object(path: Path) -> dict[str, Any]:
    """What a JSON file such as `status.json` holds, empty when it is not there."""
    if not path.exists():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except UNREADABLE as error:
        raise UsageError(f"{path}: not a JSON object ({error}); restore it from a copy") from error


def plain_rows(path: Path, kind: type[T]) -> Iterator[T]:
    """Rows of a file of plain JSON lines, none when it is not there.

    A last line without its end is still being written. UsageError when a line is not such a row.
    """
    if not path.exists():
        return
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield decode(line, kind)
            except UNREADABLE as error:
                raise UsageError(f"{path}:{number}: {error}; correct or remove that line") from error
