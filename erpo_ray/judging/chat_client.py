"""One request to an OpenAI-compatible endpoint. No retries here: `asking` has one budget for all."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from erpo_ray.config.judges import JudgeLLM
from erpo_ray.errors import UsageError
from erpo_ray.judging.replies import Form, excerpt
from erpo_ray.judging.rubrics import Question
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


class Model(Protocol):
    """Answers questions; with a form, by its JSON schema."""

    async def complete(self, question: Question, form: Form | None) -> Completion | Denied: ...


@asynccontextmanager
async def connect(settings: JudgeLLM) -> AsyncIterator[Model]:
    """The configured endpoint, closed at the end. Raises UsageError for a key or an address that cannot be one."""
    # These take a second to import, and most runs do without them.
    import httpx2
    import openai

    from erpo_ray.judging import guarded_http

    key = os.environ.get(settings.api_key_env, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UsageError(f"judge: the key in ${settings.api_key_env} holds characters that no key has; set it again")
    async with guarded_http.client(settings.timeout_s, settings.concurrency) as http:
        try:
            # A local server needs no key, but the client insists on one.
            client = openai.AsyncOpenAI(
                base_url=settings.base_url, api_key=key or "none", max_retries=0, http_client=http
            )
        except httpx2.InvalidURL as error:
            raise UsageError(f"judge.base_url: {settings.base_url} is no address ({error}); correct it") from None
        yield ChatClient(client, settings, key)


class ChatClient:
    """A Model over HTTP.

    Raises UsageError where every request would fail alike: unknown model, wrong key or address.
    """

    def __init__(self, client: openai.AsyncOpenAI, settings: JudgeLLM, key: str) -> None:
        self._client, self._settings, self._key = client, settings, key

    async def complete(self, question: Question, form: Form | None) -> Completion | Denied:
        """One attempt, by a deadline for the whole exchange: a server that drips holds it no longer."""
        import openai

        from erpo_ray.judging.guarded_http import Unreadable

        try:
            async with asyncio.timeout(self._settings.timeout_s):
                raw = await self._client.chat.completions.with_raw_response.create(**self._body(question, form))
        except (TimeoutError, openai.APITimeoutError):
            return Denied(Failure("timeout", f"no whole reply within {self._settings.timeout_s:g} s"), again=True)
        except openai.APIConnectionError as error:
            return Denied(self._failure("no_connection", repr(error.__cause__)), again=True)
        except openai.APIStatusError as error:
            return self._denied(error)
        except Unreadable as error:
            return Denied(self._failure(error.cause, error.told))
        return self._completion(raw.http_response.content)

    def _body(self, question: Question, form: Form | None) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._settings.model,
            "messages": [
                {"role": "system", "content": question.system},
                {"role": "user", "content": question.user},
            ],
            self._settings.reply_limit: self._settings.max_reply_tokens,
        }
        if self._settings.temperature is not None:
            body["temperature"] = self._settings.temperature
        if form:
            schema = {"name": form.name, "strict": True, "schema": form.schema()}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def _denied(self, error: openai.APIStatusError) -> Denied:
        status, headers = error.status_code, error.response.headers
        if status in _FATAL:
            raise UsageError(
                f"judge: {self._settings.base_url} answered {status} for model {self._settings.model!r}; "
                f"check judge.base_url, judge.model and the key in ${self._settings.api_key_env}"
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
        """A text of the server without the key, should it have repeated that: failures are kept on disk."""
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
