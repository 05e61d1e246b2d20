"""Rows of one forward pass as a tree of token segments: what rows begin with in common stands in it once.

Pure: nothing here loads torch. A row is a context without loss and a completion; rows with equal context and completion
are one leaf. Positions in the pass follow the segments level by level, so that each level is one slice of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

Ids = tuple[int, ...]

WORTH_SHARING = 8
"""Fewest tokens, counted over the rows that are spared them, for which a segment of its own pays."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens behind those of the segment `parent` (-1: behind none). The last `completion` of them bear loss."""

    parent: int
    tokens: Ids
    level: int
    start: int
    """Tokens before it on its path: the position of its first token."""
    completion: int = 0


@dataclass(frozen=True, slots=True)
class Tree:
    """Segments, parents first and level by level; of each row the segment that ends with its completion."""

    segments: tuple[Segment, ...]
    leaves: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens that are computed."""
        return sum(len(segment.tokens) for segment in self.segments)

    def path(self, index: int) -> list[int]:
        """The segments from the first one to this one."""
        found: list[int] = []
        while index >= 0:
            found.append(index)
            index = self.segments[index].parent
        return found[::-1]

    def intervals(self) -> list[tuple[int, int]]:
        """(entry, exit) of each segment in a depth-first walk: s lies on the path to t exactly where
        entry(s) <= entry(t) < exit(s)."""
        below = [1] * len(self.segments)
        for index in reversed(range(len(self.segments))):
            if (parent := self.segments[index].parent) >= 0:
                below[parent] += below[index]
        free = {-1: 0}
        found: list[tuple[int, int]] = []
        for index, segment in enumerate(self.segments):
            entry = free[segment.parent]
            free[segment.parent] = entry + below[index]
            free[index] = entry + 1
            found.append((entry, entry + below[index]))
        return found


@dataclass(slots=True)
class _Node:
    tokens: Ids
    completion: int
    rows: list[int]
    children: list[_Node]


def plant(rows: Sequence[tuple[Ids, Ids]]) -> Tree:
    """The tree of (context, completion) rows. A completion never stands above another: only contexts are shared."""
    leaves: dict[tuple[Ids, Ids], list[int]] = {}
    for at, row in enumerate(rows):
        leaves.setdefault(row, []).append(at)
    contexts: dict[Ids, list[_Node]] = {}
    for (context, completion), which in leaves.items():
        contexts.setdefault(context, []).append(_Node(completion, len(completion), which, []))
    ordered = sorted(contexts.items(), key=lambda item: item[0])
    return _flat([_join(at, group) for at, group in _groups(ordered, 0)], len(rows))


def _groups(
    contexts: Sequence[tuple[Ids, list[_Node]]], at: int
) -> Iterator[tuple[int, Sequence[tuple[Ids, list[_Node]]]]]:
    """Sorted contexts, apart where they share nothing from `at` on that is worth a segment, with that `at`."""
    if _spares(contexts, at):
        yield at, contexts
        return
    for _, same in groupby(contexts, key=lambda item: item[0][at : at + 1]):
        group = list(same)
        if _spares(group, at):
            yield at, group
        else:
            yield from ((at, [context]) for context in group)


def _spares(contexts: Sequence[tuple[Ids, list[_Node]]], at: int) -> bool:
    return len(contexts) > 1 and (_common(contexts, at) - at) * (len(contexts) - 1) >= WORTH_SHARING


def _common(contexts: Sequence[tuple[Ids, list[_Node]]], at: int) -> int:
    """Up to where sorted contexts agree, at least `at`."""
    first, last = contexts[0][0], contexts[-1][0]
    end = min(len(first), len(last))
    while at < end and first[at] == last[at]:
        at += 1
    return at


def _join(at: int, contexts: Sequence[tuple[Ids, list[_Node]]]) -> _Node:
    """The node of these contexts from position `at` on; those of one context end in its completions."""
    if len(contexts) == 1:
        ((context, completions),) = contexts
        rest = context[at:]
        if len(completions) == 1:
            (only,) = completions
            return _Node(rest + only.tokens, only.completion, only.rows, [])
        return _Node(rest, 0, [], completions)
    end = _common(contexts, at)
    node = _Node(contexts[0][0][at:end], 0, [], [])
    whole = [item for item in contexts if len(item[0]) == end]
    node.children = [completion for _, completions in whole for completion in completions]
    longer = [item for item in contexts if len(item[0]) > end]
    node.children += [_join(start, group) for start, group in _groups(longer, end)]
    return node


def _flat(roots: Sequence[_Node], rows: int) -> Tree:
    segments: list[Segment] = []
    leaves = [0] * rows
    level, standing = 0, [(-1, 0, node) for node in roots]
    while standing:
        below: list[tuple[int, int, _Node]] = []
        for parent, start, node in standing:
            for row in node.rows:
                leaves[row] = len(segments)
            end = start + len(node.tokens)
            below += [(len(segments), end, child) for child in node.children]
            segments.append(Segment(parent, node.tokens, level, start, node.completion))
        level, standing = level + 1, below
    return Tree(tuple(segments), tuple(leaves))
