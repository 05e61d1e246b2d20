"""Near duplicates by Jaccard similarity of token sets, found with a prefix index instead of comparing all pairs."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable

_TOKEN = re.compile(r"\w+")


def tokens(text: str) -> frozenset[str]:
    """Words of a text, case folded; the text itself when it holds none."""
    return frozenset(_TOKEN.findall(text.casefold())) or frozenset((text.strip(),))


def jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    return len(left & right) / len(left | right)


class Index:
    """Texts by similarity. Sets of Jaccard >= t share one of their (1 - t) rarest tokens: only those are indexed.

    Prefix filter: Bayardo, Ma and Srikant, Scaling up all pairs similarity search (WWW 2007).
    """

    def __init__(self, texts: Iterable[str], threshold: float) -> None:
        """`texts` only tell which words are rare; `add` puts texts in."""
        self.threshold = threshold
        self._frequency = Counter(word for text in texts for word in tokens(text))
        self._held: dict[str, frozenset[str]] = {}
        self._by_word: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, name: str, text: str) -> None:
        words = tokens(text)
        self._held[name] = words
        for word in self._rarest(words):
            self._by_word[word].append(name)

    def find(self, text: str) -> str | None:
        """Name of a text at least as similar as the threshold, the first one added; None when there is none."""
        words = tokens(text)
        names = dict.fromkeys(name for word in self._rarest(words) for name in self._by_word.get(word, ()))
        alike = {name for name in names if jaccard(words, self._held[name]) >= self.threshold}
        return next((name for name in self._held if name in alike), None) if alike else None

    def _rarest(self, words: frozenset[str]) -> list[str]:
        length = len(words) - math.ceil(self.threshold * len(words)) + 1
        return sorted(words, key=lambda word: (self._frequency[word], word))[:length]
