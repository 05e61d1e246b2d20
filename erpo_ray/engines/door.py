"""What stands in front of vLLM's app: who may ask, for what, how much, how many at once. Plain ASGI.

vLLM's own key guards some prefixes of its paths, and the rest generates as well. Here a path is closed unless it is in
`OPEN`, and nothing but `/health` is told without the key.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from erpo_ray.environment import loopback

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEALTH = "/health"
DRAWING = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
"""Paths that draw tokens."""
OPEN = {
    HEALTH: "GET",
    "/v1/models": "GET",
    "/version": "GET",
    "/metrics": "GET",
    "/tokenize": "POST",
    "/detokenize": "POST",
    **dict.fromkeys(DRAWING, "POST"),
}
"""Path -> method. Whatever else vLLM may offer is not found."""
_LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_COUNTS = ("n", "best_of")
_DIGITS = 20
"""Of a length that a header declares, at most: longer numbers are no Python numbers at last."""


@dataclass(frozen=True, slots=True)
class Terms:
    """`key` empty: none is asked for, and only programs of this machine are answered.

    Limits: `tokens` that a completion may have at most, `completions` of one request, `requests` at once, `body` in
    bytes, and `body_s` seconds in which it has to be there.
    """

    key: str = field(repr=False)
    tokens: int
    requests: int
    completions: int = 64
    body: int = 2**20
    body_s: float = 30.0


class Refused(Exception):
    """Status and reason of an answer that vLLM never hears of."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Door:
    """An ASGI app around another. Looked at in this order: key, path, number at once, body, what is asked for."""

    def __init__(self, app: App, terms: Terms) -> None:
        self._app, self._terms = app, terms
        self._key = _digest(terms.key.encode())
        self._within = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            # Refuses the handshake: none of the paths is a web socket.
            return await send({"type": "websocket.close", "code": 1008})
        try:
            self._admit(scope)
        except Refused as refused:
            return await _answer(send, refused)
        if scope["path"] == HEALTH:
            return await self._app(scope, receive, send)
        self._within += 1
        try:
            await self._serve(scope, receive, send)
        finally:
            self._within -= 1

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await self._body(scope, receive)
            if body is None:
                return
            if scope["path"] in DRAWING:
                within_limits(body, self._terms)
        except Refused as refused:
            return await _answer(send, refused)
        await self._app(scope, _replayed(body, receive), send)

    def _admit(self, scope: Scope) -> None:
        path, terms = scope["path"], self._terms
        if terms.key:
            if path != HEALTH and not hmac.compare_digest(_digest(_shown(scope)), self._key):
                raise Refused(401, "send the key of this server as `Authorization: Bearer KEY`")
        elif not _from_here(scope):
            raise Refused(403, "without a key this server answers no web page and goes by no name but localhost")
        method = OPEN.get(path)
        if method is None:
            raise Refused(404, f"this server has {', '.join(OPEN)}")
        if scope["method"] != method:
            raise Refused(405, f"{path} takes {method}")
        if path != HEALTH and self._within >= terms.requests:
            raise Refused(429, f"{terms.requests} requests are under way, and no more are taken; come again")

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """All of it; None when the client is gone. Refused when it is, or says it is, too large, or is too slow."""
        limit = self._terms.body
        too_large = Refused(413, f"the body has more than {limit} bytes")
        declared = _header(scope, b"content-length")
        if declared and not (declared.isdigit() and len(declared) < _DIGITS and int(declared) <= limit):
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._terms.body_s):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > limit:
                        raise too_large
                    more = message.get("more_body", False)
        except TimeoutError:
            raise Refused(408, f"the body took more than {self._terms.body_s:g} s") from None
        return bytes(body)


def within_limits(body: bytes, terms: Terms) -> None:
    """Refused unless a request that draws tokens keeps to the limits. One that names no length gets vLLM's own."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "the body is no JSON") from None
    if not isinstance(asked, dict):
        raise Refused(400, "the body is no JSON object")
    for name in _LENGTHS:
        if _number(asked, name) > terms.tokens:
            raise Refused(400, f"{name} is more than {terms.tokens}, the limit of this server")
    prompt = asked.get("prompt")
    # A list of numbers is one prompt of token ids.
    prompts = len(prompt) if isinstance(prompt, list) and not all(isinstance(each, int) for each in prompt) else 1
    if prompts * max(1, *(_number(asked, name) for name in _COUNTS)) > terms.completions:
        raise Refused(400, f"more than {terms.completions} completions, the limit of this server for one request")


def _number(asked: dict[str, Any], name: str) -> int:
    """The number given, 0 where there is none. Nothing else is one: vLLM reads some strings as numbers."""
    value = asked.get(name)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise Refused(400, f"{name} is no whole number")
    return value


def _digest(key: bytes) -> bytes:
    """Of one length, so that a comparison tells nothing of the key's."""
    return hashlib.sha256(key).digest()


def _header(scope: Scope, name: bytes) -> bytes:
    """Its value; empty where it is missing, or there twice: two parsers may not agree on which counts."""
    values = [value for found, value in scope["headers"] if found.lower() == name]
    return values[0] if len(values) == 1 else b""


def _shown(scope: Scope) -> bytes:
    """The key that a request shows; empty for none."""
    scheme, _, key = _header(scope, b"authorization").partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""


def _from_here(scope: Scope) -> bool:
    """Whether a program of this machine asks, and no page in its browser: such a page names where it comes from, or has
    had a name of its own point here."""
    page = any(name.lower() == b"origin" for name, _ in scope["headers"])
    return not page and _names_this_machine(_header(scope, b"host").decode("latin-1"))


def _names_this_machine(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return loopback(name.removeprefix("[").removesuffix("]"))


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body first, then whatever the connection says."""
    first = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> MutableMapping[str, Any]:
        return first.pop() if first else await receive()

    return again


async def _answer(send: Send, refused: Refused) -> None:
    """As OpenAI's API puts errors. The connection ends: what is left of a body on it is not read."""
    said = {"error": {"message": refused.reason, "type": "invalid_request_error", "code": refused.status}}
    body = json.dumps(said).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if refused.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if refused.status == 429:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
