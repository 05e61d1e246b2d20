"""Pure measures of an answer's text: loops, emptiness, closeness to what was asked."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

_SURROGATE = re.compile("[\ud800-\udfff]")
_PIECE = re.compile(r"\w+|[^\w\s]")
_WORDS = re.compile(r"\w+")
_FILLER = re.compile(
    r"\b(?:happy|glad|here|ready|pleased) to (?:help|assist)\b|\bhow (?:can|may) i (?:help|assist)\b"
    r"|\bwhat (?:would you like|do you need|can i do)\b|\blet me know (?:if|what|how)\b"
)
_PLEASANTRY = re.compile(
    r"\b(?:(?:great|good|excellent|interesting|wonderful) (?:question|topic|point|idea)|thank(?:s| you) for (?:asking"
    r"|sharing|reaching|your (?:question|interest|message))|i hope (?:this|that|it) helps|i (?:understand|see) (?:your"
    r"|what you|that you)|feel free to|anything else|as an ai)\b"
)
"""What says nothing about the matter, whatever the matter is."""
_SENTENCE = re.compile(r"[^.!?\n]+[.!?\n]*")
_ENUMERATOR = re.compile(r"(?:^|(?<=[.!?] )|(?<=\n))\s{0,8}(?:step )?\d{1,3}[.:)]")
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
    """Share of 4-word sequences seen before in the text, in [0, 1]; of 8 characters when it has hardly any words.

    Case, marks and the numbers of list items make no difference.
    """
    units, n = _WORDS.findall(_ENUMERATOR.sub(" ", text.casefold())), 4
    if len(units) < 2 * n:
        characters, n = text.strip(), 8
        grams: list[object] = [characters[i : i + n] for i in range(len(characters) - n + 1)]
    else:
        grams = [tuple(units[i : i + n]) for i in range(len(units) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def vacuous(answer: str, prompt: str, min_tokens: int) -> str:
    """Why an answer says nothing, empty when it says something.

    `short`: fewer tokens than `min_tokens`, or no letter or digit at all; `echo`: the prompt again; `filler`: a mere
    offer to help, or pleasantries with next to nothing between them.
    """
    pieces = rough_tokens(answer)
    if pieces < min_tokens or not _WORDS.search(answer):
        return "short"
    folded = answer.casefold()
    asked, said = (_PIECE.findall(text)[:_ECHO_WORDS] for text in (prompt.casefold(), folded))
    if SequenceMatcher(None, asked, said, autojunk=False).ratio() >= _ECHO:
        return "echo"
    if pieces <= _FILLER_PIECES and _FILLER.search(folded):
        return "filler"
    sentences = _SENTENCE.findall(folded)
    matter = [each for each in sentences if not (_FILLER.search(each) or _PLEASANTRY.search(each))]
    return "filler" if len(matter) < len(sentences) and rough_tokens(" ".join(matter)) < min_tokens else ""


def relevance(cosine: float, floor: float, full: float) -> float:
    """A cosine on the line from -1 at `floor` to 1 at `full`, held there outside. Needs floor < full."""
    return max(-1.0, min(1.0, 2 * (cosine - floor) / (full - floor) - 1))
