"""Ids in a few bytes each: a set of them, and where the row of each lies."""

from __future__ import annotations

from array import array

_ROOM = 1024
_DIGEST = (1 << 64) - 1


class Index:
    """Ids as 64-bit digests in an open-addressed table: 12 to 24 bytes an id, where a set of str takes above 100.

    That two of 10^6 ids share a digest has a probability of 3e-8: what ids of 16 hex digits run by themselves.
    """

    def __init__(self) -> None:
        self._table = array("Q", bytes(8 * _ROOM))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: str) -> bool:
        digest = _digest(key)
        return self._table[_place(self._table, digest)] == digest

    def add(self, key: str) -> bool:
        """Whether it is new."""
        digest = _digest(key)
        place = _place(self._table, digest)
        if self._table[place] == digest:
            return False
        self._table[place] = digest
        self._count += 1
        if 3 * self._count > 2 * len(self._table):
            self._grow()
        return True

    def _grow(self) -> None:
        table = array("Q", bytes(16 * len(self._table)))
        for digest in filter(None, self._table):
            table[_place(table, digest)] = digest
        self._table = table


class Places:
    """Offsets in a file by id, in digests as those of an Index: 24 to 48 bytes each. The first of an id counts."""

    def __init__(self) -> None:
        self._table, self._offsets = array("Q", bytes(8 * _ROOM)), array("Q", bytes(8 * _ROOM))
        self._count = 0

    def __contains__(self, key: str) -> bool:
        digest = _digest(key)
        return self._table[_place(self._table, digest)] == digest

    def __getitem__(self, key: str) -> int:
        digest = _digest(key)
        place = _place(self._table, digest)
        if self._table[place] != digest:
            raise KeyError(key)
        return self._offsets[place]

    def add(self, key: str, offset: int) -> None:
        digest = _digest(key)
        place = _place(self._table, digest)
        if self._table[place] == digest:
            return
        self._table[place], self._offsets[place] = digest, offset
        self._count += 1
        if 3 * self._count > 2 * len(self._table):
            self._grow()

    def _grow(self) -> None:
        table, offsets = (array("Q", bytes(16 * len(self._table))) for _ in range(2))
        for digest, offset in zip(self._table, self._offsets, strict=True):
            if digest:
                place = _place(table, digest)
                table[place], offsets[place] = digest, offset
        self._table, self._offsets = table, offsets


def _digest(key: str) -> int:
    """Never 0, which marks a free place."""
    return hash(key) & _DIGEST or 1


def _place(table: array[int], digest: int) -> int:
    """Where the digest is or belongs."""
    mask = len(table) - 1
    place = digest & mask
    while (found := table[place]) and found != digest:
        place = place + 1 & mask
    return place
