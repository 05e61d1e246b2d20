"""Trace and answer of a completion that is still being written, and where they lie among its tokens: for servers.

Pure: text and a `decode` come in. Nothing here asks that `<think>` be a token of its own.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence

from erpo_ray.traces import CLOSE, THINK

Decode = Callable[[Sequence[int]], str]


class Splitter:
    """Takes text as it comes and gives back what is certain of reasoning and answer.

    Joined, the parts are those of `traces.split` without white space at their ends. Two malformed completions differ,
    since a stream cannot take back what it said: words before `<think>` are answer even when the trace never closes,
    and so are words before a `</think>` that nothing opened.
    """

    def __init__(self) -> None:
        self._tags: tuple[str, ...] = (THINK, CLOSE)
        self._inside = False
        self._begun = False
        self._answered = False
        self._held = ""

    def feed(self, text: str) -> tuple[str, str]:
        """Reasoning and answer that this text adds. White space and what may begin a tag wait for the next call."""
        self._held += text
        parts = {True: "", False: ""}
        while found := [(self._held.find(tag), tag) for tag in self._tags if tag in self._held]:
            at, tag = min(found)
            parts[self._inside] += self._take(at)
            self._held = self._held[len(tag) :]
            self._inside, self._begun = tag == THINK, False
            self._tags = (CLOSE,) if self._inside else ()
        whole = len(self._held) - self._opening()
        parts[self._inside] += self._take(len(self._held[:whole].rstrip()))
        return parts[True], parts[False]

    def finish(self) -> tuple[str, str]:
        """What waited for a tag that did not come."""
        rest = self._take(len(self._held))
        return (rest, "") if self._inside else ("", rest)

    def _take(self, end: int) -> str:
        text, self._held = self._held[:end].rstrip(), self._held[end:]
        if self._begun:
            return text
        text = text.lstrip()
        self._begun = bool(text)
        if not text or self._inside:
            return text
        glue, self._answered = "\n" if self._answered else "", True
        return glue + text

    def _opening(self) -> int:
        """Length of the longest end of the held text that could begin a tag."""
        starts = (tag[:length] for tag in self._tags for length in range(len(tag) - 1, 0, -1))
        return max((len(start) for start in starts if self._held.endswith(start)), default=0)


def reasoning_tokens(ids: Sequence[int], decode: Decode) -> int:
    """How many of a completion's tokens lie wholly in its trace, the tags not counted."""
    head, close, _ = decode(ids).partition(CLOSE)
    opened = head.find(THINK)
    if opened < 0 and not close:
        return 0
    first = bisect_left(_prefixes(ids), opened + len(THINK) if opened >= 0 else 0, key=_length(ids, decode))
    last = bisect_right(_prefixes(ids), len(head), key=_length(ids, decode)) - 1
    return max(0, last - first)


def answer_ids(ids: Sequence[int], decode: Decode) -> list[int]:
    """The tokens behind the one that completes `</think>`; none when the trace is open."""
    end = bisect_left(_prefixes(ids), True, key=lambda count: CLOSE in decode(ids[:count]))
    return list(ids[end:])


def closes(ids: Sequence[int], new: int, decode: Decode) -> bool:
    """Whether the last `new` of the tokens complete a `</think>`. Looks at the end only, whatever the length."""
    tail = ids[-(new + len(CLOSE)) :]
    text, before = decode(tail), decode(tail[: len(tail) - new])
    at = text.rfind(CLOSE)
    return at >= 0 and at + len(CLOSE) > len(before)


def _prefixes(ids: Sequence[int]) -> range:
    return range(len(ids) + 1)


def _length(ids: Sequence[int], decode: Decode) -> Callable[[int], int]:
    return lambda count: len(decode(ids[:count]))
