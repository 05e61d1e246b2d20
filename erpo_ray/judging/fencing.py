r"""Text of others made fit to stand in a judge's prompt.

Hidden characters are shown, what a tokenizer could take for a special token is broken up, and the middle of an overlong
text is left out. All of it is written `\u{...}`: `\u{202e}` for the character U+202E, `\u{cut 1200}` for 1200
characters left out. A `\u{` of the text's own becomes `\u{5c}u{`, so that a text can forge neither, and what is not cut
can be undone.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that show nothing, or change how their neighbours are shown (bidi marks, tag characters)."""
_SELECTORS = range(0xE0100, 0xE01F0)
"""Variation selectors beyond those of emoji: they show nothing and can carry a hidden text."""
_NAMES = (
    "think|thinking|thoughts?|reasoning|analysis|reflection|answer|s|bos|eos|pad|unk|mask|cls|sep|sop|eop|eot|eod|eom"
    r"|turn|img|image|audio|video|box|ref|quad|system|user|assistant|human|tool|function|channel|message|endoftext"
    r"|unused\d{1,4}|0x[0-9a-f]{2}|[a-z0-9:]{1,20}_[a-z0-9_]{1,30}"
)
_BREAK = re.compile(
    r"\\(?=u\{)"
    r"|[<＜](?=[|｜])"
    r"|[<＜](?=[<＜]/?SYS)"
    rf"|[<＜](?=\s{{0,3}}/?\s{{0,3}}(?i:{_NAMES})\s{{0,3}}/?[>＞])"
    r"|[\[［](?=/?[a-z]?[A-Z][A-Z_]{1,30}[\]］])"
)
"""The first character of what opens special tokens of known chat formats, and of our own marks."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A text made fit, and how many of its characters were left out."""

    text: str
    left_out: int = 0


def show(text: str, limit: int) -> Shown:
    """The text with nothing hidden and no special token, in at most `limit` characters and the mark of the cut."""
    head = _visible(text[:limit])
    if len(text) <= limit and sum(map(len, head)) <= limit:
        return Shown("".join(head))
    tail = _visible(text[-limit:])
    head = head[: _fitting(head, limit // 2)]
    tail = tail[len(tail) - _fitting(reversed(tail), limit - limit // 2) :]
    left_out = len(text) - len(head) - len(tail)
    return Shown("".join((*head, f"\\u{{cut {left_out}}}", *tail)), left_out)


def _visible(text: str) -> list[str]:
    """Each character, or what stands for it."""
    broken = {match.start() for match in _BREAK.finditer(text)}
    return [f"\\u{{{ord(char):x}}}" if i in broken or _hidden(char) else char for i, char in enumerate(text)]


def _hidden(char: str) -> bool:
    if char in "\n\t":
        return False
    return unicodedata.category(char) in _HIDDEN or ord(char) in _SELECTORS


def _fitting(pieces: Iterable[str], room: int) -> int:
    """How many of the pieces, from the first on, have room."""
    count = 0
    for piece in pieces:
        room -= len(piece)
        if room < 0:
            break
        count += 1
    return count
