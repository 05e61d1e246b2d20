"""Ids in a few bytes each: a set of them, and where the row of each lies."""

from __future__ import annotations

from array import array

_ROOM = 1024
_DIGEST = (1 << 64) - 1
_NOWHERE = (1 << 64) - 1


class Index:
    """Ids as 64-bit digests in an open-addressed table: 12 to 24 bytes an id, where a set of str takes above 100.

    That two of 10^6 ids share a digest has a probability of 3e-8: what ids of 16 hex digits run by themselves.
    `table` has a digest or 0 in each place; another one takes over when it is full.
    """

    def __init__(self) -> None:
        self.table = array("Q", bytes(8 * _ROOM))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: str) -> bool:
        digest = _digest(key)
        return self.table[_place(self.table, digest)] == digest

    def add(self, key: str) -> bool:
        """Whether it is new."""
        digest = _digest(key)
        place = _place(self.table, digest)
        if self.table[place] == digest:
            return False
        self.table[place] = digest
        self._count += 1
        if 3 * self._count > 2 * len(self.table):
            self._grow()
        return True

    def _grow(self) -> None:
        table = array("Q", bytes(16 * len(self.table)))
        for digest in filter(None, self.table):
            table[_place(table, digest)] = digest
        self.table = table


class Places:
    """Offsets in a file of the ids that an Index holds by now: 12 to 24 bytes each beside it, whose table it reads.

    The first offset of an id counts; ids that the index gets later, or never had, have none.
    """

    def __init__(self, ids: Index) -> None:
        # An index that grows takes a new table: this one stays as it is, but for ids that fill its free places.
        self._table = ids.table
        self._offsets = array("Q", [_NOWHERE]) * len(self._table)

    def __contains__(self, key: str) -> bool:
        return self._at(key) is not None

    def __getitem__(self, key: str) -> int:
        place = self._at(key)
        if place is None:
            raise KeyError(key)
        return self._offsets[place]

    def add(self, key: str, offset: int) -> None:
        digest = _digest(key)
        place = _place(self._table, digest)
        if self._table[place] == digest and self._offsets[place] == _NOWHERE:
            self._offsets[place] = offset

    def _at(self, key: str) -> int | None:
        digest = _digest(key)
        place = _place(self._table, digest)
        return place if self._table[place] == digest and self._offsets[place] != _NOWHERE else None


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
