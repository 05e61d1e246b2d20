"""Rows of a ledger by id, read from its file when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from erpo_ray.rundir.files import Files
from erpo_ray.rundir.index import Index, Places
from erpo_ray.rundir.lines import damaged, verify
from erpo_ray.types import decode

T = TypeVar("T")


class Reader(Generic[T]):
    """The rows that a ledger held at one moment. What is held in memory is where each lies."""

    def __init__(self, files: Files, path: Path, kind: type[T], ids: Index, places: Iterable[tuple[str, int]]) -> None:
        """`ids`: the ledger's. `places`: offsets of their lines; of an id that comes twice the first counts."""
        self._files, self._path, self._kind = files, path, kind
        self._places = Places(ids)
        for key, start in places:
            self._places.add(key, start)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    @contextmanager
    def opened(self) -> Iterator[Callable[[str], T]]:
        """A function that gives the row of an id, while the file is open. KeyError when there is none.

        UsageError when the line has been damaged since.
        """
        with self._files.open(self._path) as stream:

            def row(key: str) -> T:
                start = self._places[key]
                stream.seek(start)
                verified = verify(stream.readline())
                if verified is None:
                    stream.seek(0)
                    number = 1 + stream.read(start).count(b"\n")
                    raise damaged(self._path, number, "damaged (its checksum does not fit)")
                return decode(bytes(verified[0].row), self._kind)

            yield row
