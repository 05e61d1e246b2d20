"""The groups of a stage, read from its ledgers as they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import overload

from erpo_ray.rundir import Reader
from erpo_ray.types import Candidate, Group, Request, Verdict


class Groups(Sequence[Group]):
    """A group for each request: its candidates in sample order, with their verdicts. Every candidate must be judged.

    In memory are the requests and where the rows lie, so that a stage of a million candidates fits a small driver.
    Each group is read and checked anew whenever it is asked for, in some ten microseconds a candidate.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        name: Callable[[str, int], str],
        candidates: Reader[Candidate],
        verdicts: Reader[Verdict],
    ) -> None:
        """`name` gives a candidate's id from the id of its prompt and its sample number."""
        self._requests, self._name = requests, name
        self._candidates, self._verdicts = candidates, verdicts

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Group]:
        return self._read(self._requests)

    @overload
    def __getitem__(self, index: int) -> Group: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Group]: ...
    def __getitem__(self, index: int | slice) -> Group | Sequence[Group]:
        if isinstance(index, slice):
            return Groups(self._requests[index], self._name, self._candidates, self._verdicts)
        return next(self._read((self._requests[index],)))

    def _read(self, requests: Sequence[Request]) -> Iterator[Group]:
        with self._candidates.opened() as candidate, self._verdicts.opened() as verdict:
            for request in requests:
                names = [self._name(request.prompt.id, sample) for sample in request.samples]
                drawn = [name for name in names if name in self._candidates]
                yield Group(
                    request.prompt, request.prompt_ids, tuple(map(candidate, drawn)), tuple(map(verdict, drawn))
                )
