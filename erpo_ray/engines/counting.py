"""How many tokens a text may have, told by the tokenizer's file: without transformers, whose import takes seconds."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer

APART = 1.1
"""transformers makes some tokenizers anew from such a file, which may cut a text a little otherwise."""


def at_most(text: str, model_dir: Path) -> float:
    """More tokens than `text` has as plain text; infinite where the file does not tell: there is none, or the text
    holds what the file takes for a single token and a renderer takes apart."""
    counter = _counter(model_dir)
    if counter is None or any(token in text for token in _added(model_dir)):
        return math.inf
    return APART * len(counter.encode(text, add_special_tokens=False).ids)


@cache
def _counter(model_dir: Path) -> Tokenizer | None:
    file = model_dir / "tokenizer.json"
    if not file.is_file():
        return None
    found = Tokenizer.from_file(str(file))
    found.no_truncation()
    return found


@cache
def _added(model_dir: Path) -> tuple[str, ...]:
    counter = _counter(model_dir)
    return tuple(token.content for token in counter.get_added_tokens_decoder().values()) if counter else ()
