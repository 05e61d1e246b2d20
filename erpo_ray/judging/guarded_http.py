"""An HTTP client that does not trust its server. Imported where one is opened and not before: httpx2 takes a while.

No redirect is followed, so that the key goes to the configured host alone; no compressed body is read, and none above
1 MiB.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

import httpx2

MAX_BODY = 2**20
"""Bytes of a body."""


class Unreadable(Exception):
    """A body that is not read to its end: the cause, and what was told of it."""

    def __init__(self, cause: str, told: str) -> None:
        super().__init__(cause)
        self.cause, self.told = cause, told


def client(timeout_s: float, connections: int) -> httpx2.AsyncClient:
    """A client with these guards, whose requests raise Unreadable. `timeout_s` is for each wait, not for the whole."""
    return httpx2.AsyncClient(
        follow_redirects=False,
        headers={"Accept-Encoding": "identity"},
        timeout=timeout_s,
        limits=httpx2.Limits(max_connections=connections),
        event_hooks={"response": [_guard]},
    )


async def _guard(response: httpx2.Response) -> None:
    """Runs before the body is read."""
    # By the server's choice of a charset its text could be read through a codec that inflates it.
    response.encoding = "utf-8"
    coding = response.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise Unreadable("compressed_reply", f"content-encoding {coding}, which was not asked for")
    response.stream = _Limited(cast(httpx2.AsyncByteStream, response.stream))


class _Limited(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._stream:
            size += len(part)
            if size > MAX_BODY:
                raise Unreadable("reply_too_long", f"a body of more than {MAX_BODY} bytes")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()
