"""One exchange with an OpenAI-compatible endpoint that is not trusted, and what came of it.

Judges and teachers ask through it. What they ask, and whether they ask again, is theirs.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from erpo_ray.errors import UsageError
from erpo_ray.judging.replies import excerpt
from erpo_ray.types import Failure

if TYPE_CHECKING:
    import openai

_AGAIN = {408, 409, 425, 429}
"""Statuses below 500 after which the same request may succeed."""
_FATAL = {401, 404}
"""Statuses that every request would meet. 403 is none: some endpoints answer it to a text they do not like."""
_SECONDS = re.compile(r"\d{1,6}(\.\d{1,6})?")


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model said, how it ended, and the tokens the server counted (None where it told none)."""

    text: str
    finish: str = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Denied:
    """Why there is no completion, whether asking again may help, and for how many seconds the server wants peace."""

    failure: Failure
    again: bool = False
    wait_s: float = 0.0
    status: int = 0


class Address(Protocol):
    """What settings say of an endpoint. `api_key_env` names the variable that holds the key."""

    @property
    def base_url(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def api_key_env(self) -> str: ...
    @property
    def timeout_s(self) -> float: ...


class Endpoint:
    """The endpoint of a section of the configuration, whose name messages carry.

    Raises UsageError where every request would fail alike: unknown model, wrong key or address.
    """

    def __init__(self, section: str, settings: Address) -> None:
        self._section, self._settings = section, settings
        self._key = os.environ.get(settings.api_key_env, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise UsageError(
                f"{section}: the key in ${settings.api_key_env} holds characters that no key has; set it again"
            )

    @asynccontextmanager
    async def client(self, connections: int, retries: int) -> AsyncIterator[openai.AsyncOpenAI]:
        """To send requests through, closed at the end."""
        # These take a second to import, and most runs do without them.
        import httpx2
        import openai

        from erpo_ray.judging import guarded_http

        url = self._settings.base_url
        async with guarded_http.client(self._settings.timeout_s, connections) as http:
            try:
                # A local server needs no key, but the client insists on one.
                client = openai.AsyncOpenAI(
                    base_url=url, api_key=self._key or "none", max_retries=retries, http_client=http
                )
            except httpx2.InvalidURL as error:
                raise UsageError(f"{self._section}.base_url: {url} is no address ({error}); correct it") from None
            yield client

    async def exchange(self, request: Awaitable[Any], patience_s: float, late: str) -> Completion | Denied:
        """What comes of a request for a raw response, by a deadline for the whole of it: a server that drips holds it
        no longer. `late` is what is told when that passes."""
        import openai

        from erpo_ray.judging.guarded_http import Unreadable

        try:
            async with asyncio.timeout(patience_s):
                raw = await request
        except (TimeoutError, openai.APITimeoutError):
            return Denied(Failure("timeout", late), again=True)
        except openai.APIConnectionError as error:
            return Denied(self._failure("no_connection", repr(error.__cause__)), again=True)
        except openai.APIStatusError as error:
            return self._denied(error)
        except Unreadable as error:
            return Denied(self._failure(error.cause, error.told))
        return self._completion(raw.http_response.content)

    def _denied(self, error: openai.APIStatusError) -> Denied:
        status, headers, section = error.status_code, error.response.headers, self._section
        if status in _FATAL:
            raise UsageError(
                f"{section}: {self._settings.base_url} answered {status} for model {self._settings.model!r}; "
                f"check {section}.base_url, {section}.model and the key in ${self._settings.api_key_env}"
            ) from None
        if 300 <= status < 400:
            told = f"{status} to {headers.get('location', 'nowhere')}, which is not followed"
            return Denied(self._failure("redirect", told), status=status)
        again = status in _AGAIN or status >= 500
        return Denied(self._failure(f"http_{status}", error.response.text), again, _seconds(headers), status)

    def _completion(self, body: bytes) -> Completion | Denied:
        try:
            reply = msgspec.json.decode(body, type=_Reply)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            told = f"{error}: {body.decode('utf-8', 'backslashreplace')}"
            return Denied(self._failure("no_chat_completion", told), again=True)
        if len(reply.choices) != 1:
            return Denied(Failure("no_chat_completion", f"{len(reply.choices)} choices"), again=True)
        [choice] = reply.choices
        tokens = (_count(reply.usage, name) for name in ("prompt_tokens", "completion_tokens"))
        return Completion(self._keyless(choice.message.content or ""), choice.finish_reason or "", *tokens)

    def _failure(self, cause: str, told: str) -> Failure:
        return Failure(cause, excerpt(self._keyless(told)))

    def _keyless(self, text: str) -> str:
        """A text of the server without the key, should it have repeated that: failures and replies are kept on disk."""
        return text.replace(self._key, f"${self._settings.api_key_env}") if self._key else text


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Reply(msgspec.Struct):
    """The parts of a chat completion that are read."""

    choices: list[_Choice]
    usage: Any = None


def _seconds(headers: Mapping[str, str]) -> float:
    """A `Retry-After` in seconds; 0 for none, and for a date, which needs clocks that agree."""
    told = _SECONDS.fullmatch(headers.get("retry-after", ""))
    return float(told[0]) if told else 0.0


def _count(usage: object, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if type(value) is int and value >= 0 else None
