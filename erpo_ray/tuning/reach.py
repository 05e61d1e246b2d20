"""Telling an endpoint that was not reached from one that answered badly: only the second says something of a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from erpo_ray.errors import RunFailed

_FOR_NOW = frozenset(
    {
        "timeout",
        "no_connection",
        "no_chat_completion",
        *(f"http_{status}" for status in (408, 409, 425, 429, *range(500, 600))),
        *(f"request:{name}" for name in ("APIConnectionError", "APITimeoutError", "RateLimitError")),
        "request:InternalServerError",
    }
)
"""Causes that another try may not meet."""


def unreached(cause: str) -> bool:
    """Whether a failure with this cause is no answer at all."""
    return cause in _FOR_NOW


def ended(finish: str) -> str:
    """How a completion ended, as `rewriting.read` takes it: servers have several names for a whole one."""
    return finish if finish in ("length", "content_filter") else "stop"


def require(section: str, url: str, asked: int, causes: Sequence[str]) -> None:
    """RunFailed with the causes, each of a request that was not answered; nothing without any."""
    if causes:
        told = ", ".join(f"{cause} {count}" for cause, count in Counter(causes).most_common())
        raise RunFailed(
            f"{section}: {url} did not answer {len(causes)} of {asked} ({told}); see that it serves {section}.model, "
            "then start the same command again: what was answered is kept"
        )
