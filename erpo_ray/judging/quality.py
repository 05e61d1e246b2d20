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
_LITTLE = frozenset(
    "a an the this that these those it its of to in on at for from by with into about as and but so if than then there"
    " here i me my mine we us our ours you your yours he him his she her hers they them their theirs one who whom whose"
    " which what when where why how am is are was were be been being do does did done have has had can could may might"
    " must shall should will would s t d m ll re ve just also too very some any all both more most own please"
    # Promises, and what traces say of requests.
    " sure certainly course absolutely okay well let explain tell show guide help step steps way ways answer following"
    " want wants ask asks asked user request safe safely harmless harmful".split()
)
"""Words that are in any sentence, or tell nothing of any matter; those that agree or deny are not among them."""
_OWN_WORDS = re.compile(
    r"\b(?:shorten|rewrite|reword|rephrase|paraphrase|translate|summari[sz]e|correct|proofread|fix|edit|repeat|extract"
    r"|sort|complete|convert|classify|spell|say)\b"
    r"|(?:^|[.:!?\n\"])\W*(?:am|is|are|was|were|do|does|did|have|has|had|should|shall|may|must)\b"
    r"|\b(?:which|what|who|should|is|are)\b[^.?!\n]{0,80}\bor\b"
)
"""Prompts whose answer may well consist of their own words: on a given text, a question of yes or no, a choice."""
_EXPLAIN = re.compile(r"(?:^|[.:!?\n\"])\W*(?:why|how (?:to|do|does|did|can|could|should|would))\b")
_NEW_SHARE, _EXPLAINED = 10, 2
"""A parrot has less than one word of its own among this many; fewer than `_EXPLAINED` explain nothing."""


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


def vacuous(answer: str, prompt: str, min_tokens: int, trace: str = "") -> str:
    """Why an answer says nothing, empty when it says something. `trace` is what its trace says of the request.

    `short`: fewer tokens than `min_tokens`, or no letter or digit at all; `echo`: the prompt again, or made of words
    of prompt and `trace`; `filler`: a mere offer to help, or pleasantries with next to nothing between them.
    """
    pieces = rough_tokens(answer)
    if pieces < min_tokens or not _WORDS.search(answer):
        return "short"
    folded = answer.casefold()
    asked, said = (_PIECE.findall(text)[:_ECHO_WORDS] for text in (prompt.casefold(), folded))
    if SequenceMatcher(None, asked, said, autojunk=False).ratio() >= _ECHO or _parrots(folded, prompt, trace):
        return "echo"
    if pieces <= _FILLER_PIECES and _FILLER.search(folded):
        return "filler"
    sentences = _SENTENCE.findall(folded)
    matter = [each for each in sentences if not (_FILLER.search(each) or _PLEASANTRY.search(each))]
    return "filler" if len(matter) < len(sentences) and rough_tokens(" ".join(matter)) < min_tokens else ""


def _parrots(answer: str, prompt: str, trace: str) -> bool:
    asked = prompt.casefold()
    if _OWN_WORDS.search(asked):
        return False
    known = _LITTLE.union(_WORDS.findall(asked), _WORDS.findall(trace.casefold()))
    matter = set(_WORDS.findall(answer)) - _LITTLE
    least = max(len(matter) / _NEW_SHARE, _EXPLAINED if _EXPLAIN.search(asked) else 0)
    return bool(matter) and len(matter - known) < least


def relevance(cosine: float, floor: float, full: float) -> float:
    """A cosine on the line from -1 at `floor` to 1 at `full`, held there outside. Needs floor < full."""
    return max(-1.0, min(1.0, 2 * (cosine - floor) / (full - floor) - 1))
