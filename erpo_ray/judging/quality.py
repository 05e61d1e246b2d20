"""Pure measures of an answer's text: loops, emptiness, closeness to what was asked."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

_SURROGATE = re.compile("[\ud800-\udfff]")
_PIECE = re.compile(r"\w+|[^\w\s]")
_FILLER = re.compile(
    r"\b(?:happy|glad|here|ready|pleased) to (?:help|assist)\b|\bhow (?:can|may) i (?:help|assist)\b"
    r"|\bwhat (?:would you like|do you need|can i do)\b|\blet me know (?:if|what|how)\b"
)
_FILLER_PIECES = 30
"""An offer to help longer than this has said something besides."""
_ECHO = 0.9
"""Share of matching words, of prompt and answer together, from which the answer only says the prompt again."""
_ECHO_WORDS = 300


def lone_surrogate(text: str) -> bool:
    """Whether a text holds half of a surrogate pair, which no tokenizer and no file takes."""
    return bool(_SURROGATE.search(text))


def rough_tokens(text: str) -> int:
    """About how many tokens a text has: words and marks, or a fifth of its characters where words are not spaced."""
    return max(len(_PIECE.findall(text)), len(text.strip()) // 5)


def repetition(text: str) -> float:
    """Share of 4-word sequences seen before in the text, in [0, 1]; of 8 characters when it has hardly any words."""
    units, n = text.split(), 4
    if len(units) < 2 * n:
        units, n = list(text.strip()), 8
    grams = [tuple(units[i : i + n]) for i in range(len(units) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def vacuous(answer: str, prompt: str, min_tokens: int) -> str:
    """Why an answer says nothing, empty when it says something.

    `short`: fewer tokens than `min_tokens`; `echo`: the prompt again; `filler`: a mere offer to help.
    """
    pieces = rough_tokens(answer)
    if pieces < min_tokens:
        return "short"
    asked, said = (_PIECE.findall(text.casefold())[:_ECHO_WORDS] for text in (prompt, answer))
    if SequenceMatcher(None, asked, said, autojunk=False).ratio() >= _ECHO:
        return "echo"
    return "filler" if pieces <= _FILLER_PIECES and _FILLER.search(answer.casefold()) else ""


def relevance(cosine: float, floor: float, full: float) -> float:
    """A cosine on the line from -1 at `floor` to 1 at `full`, held there outside. Needs floor < full."""
    return max(-1.0, min(1.0, 2 * (cosine - floor) / (full - floor) - 1))
