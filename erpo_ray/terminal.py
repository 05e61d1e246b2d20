"""Text for terminals and logs: what a model or a file says is data and cannot move the cursor or reverse the line."""

from __future__ import annotations

import re
from collections.abc import Sequence

_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u061c\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def clean(text: str) -> str:
    """The text without control, bidirectional and surrogate characters; newlines and tabs stay."""
    return _CONTROL.sub("", text)


def say(text: str) -> None:
    """Print a line, cleaned, at once."""
    print(clean(text), flush=True)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as columns of equal width, the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
