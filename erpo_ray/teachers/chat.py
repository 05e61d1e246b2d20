"""Replies from the teacher's endpoint, over a client that does not trust its server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

import msgspec

from erpo_ray.config import Teacher
from erpo_ray.errors import RunFailed, UsageError
from erpo_ray.judging.replies import excerpt
from erpo_ray.types import Failure

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletionMessageParam

T = TypeVar("T")

_RETRIES = 2
_FATAL = {401, 404}
"""Statuses that every request would meet. 403 is none: some endpoints answer it to a text they do not like."""
_OF_THE_TEXT = frozenset(f"http_{status}" for status in (400, 403, 413, 422))
"""Causes by which an endpoint turns down one text, and not another."""
_UNANSWERED = frozenset(
    ("timeout", "no_connection", "redirect", "compressed_reply", "reply_too_long", "no_chat_completion")
)


class Chat:
    """The configured endpoint. Calls may come from several threads.

    Connection errors, rate limits and a server's own errors are retried. Raises UsageError where every request would
    fail alike: unknown model, wrong key or address.
    """

    def __init__(self, settings: Teacher) -> None:
        self._settings, self._key = settings, os.environ.get(settings.api_key_env, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise UsageError(
                f"teacher: the key in ${settings.api_key_env} holds characters that no key has; set it again"
            )

    def complete(self, messages: list[ChatCompletionMessageParam]) -> tuple[str, str] | Failure:
        """What the model says, and how that ended (empty where it was not told); a Failure where `unanswered`."""
        return asyncio.run(self._complete(messages))

    async def _complete(self, messages: list[ChatCompletionMessageParam]) -> tuple[str, str] | Failure:
        # These take a second to import, and runs with the template teacher do without them.
        import httpx2
        import openai

        from erpo_ray.judging import guarded_http

        settings = self._settings
        # A server that drips holds no wait long enough to end it, so all attempts have one deadline.
        patience = settings.timeout_s * (1 + _RETRIES)
        async with guarded_http.client(settings.timeout_s, 1) as http:
            try:
                # A local server needs no key, but the client insists on one.
                client = openai.AsyncOpenAI(
                    base_url=settings.base_url, api_key=self._key or "none", max_retries=_RETRIES, http_client=http
                )
            except httpx2.InvalidURL as error:
                raise UsageError(f"teacher.base_url: {settings.base_url} is no address ({error}); correct it") from None
            try:
                async with asyncio.timeout(patience):
                    raw = await client.chat.completions.with_raw_response.create(
                        model=settings.model,
                        messages=messages,
                        temperature=settings.temperature,
                        max_tokens=settings.max_tokens,
                    )
            except (TimeoutError, openai.APITimeoutError):
                return Failure("timeout", f"no whole reply within {settings.timeout_s:g} s, or {patience:g} s in all")
            except openai.APIConnectionError as error:
                return self._failure("no_connection", repr(error.__cause__))
            except openai.APIStatusError as error:
                return self._denied(error)
            except guarded_http.Unreadable as error:
                return self._failure(error.cause, error.told)
            return self._read(raw.http_response.content)

    def _denied(self, error: openai.APIStatusError) -> Failure:
        status = error.status_code
        if status in _FATAL:
            raise UsageError(
                f"teacher: {self._settings.base_url} answered {status} for model {self._settings.model!r}; "
                f"check teacher.base_url, teacher.model and the key in ${self._settings.api_key_env}"
            ) from None
        if 300 <= status < 400:
            location = error.response.headers.get("location", "nowhere")
            return self._failure("redirect", f"{status} to {location}, which is not followed")
        return self._failure(f"http_{status}", error.response.text)

    def _read(self, body: bytes) -> tuple[str, str] | Failure:
        try:
            reply = msgspec.json.decode(body, type=_Reply)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return self._failure("no_chat_completion", f"{error}: {body.decode('utf-8', 'backslashreplace')}")
        if len(reply.choices) != 1:
            return Failure("no_chat_completion", f"{len(reply.choices)} choices")
        [choice] = reply.choices
        return self._keyless(choice.message.content or ""), choice.finish_reason or ""

    def _failure(self, cause: str, told: str) -> Failure:
        return Failure(cause, excerpt(self._keyless(told)))

    def _keyless(self, text: str) -> str:
        """A text of the server without the key, should it have repeated that: replies are kept on disk."""
        return text.replace(self._key, f"${self._settings.api_key_env}") if self._key else text


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Reply(msgspec.Struct):
    """The parts of a chat completion that are read."""

    choices: list[_Choice]


def unanswered(cause: str) -> bool:
    """Whether a failure with this cause is no reply of the model at all: not one that was read and is ill-formed."""
    return cause in _UNANSWERED or cause.startswith("http_")


def answered(written: Iterable[T | Failure], wanted: int, limit: float) -> list[T | Failure]:
    """All of them. RunFailed as soon as more than `limit` of the `wanted` ones have no reply.

    A text that the endpoint turns down does not count, unless it turns down all.
    """
    found: list[T | Failure] = []
    lost: list[Failure] = []
    refused: list[Failure] = []
    for each in written:
        found.append(each)
        if isinstance(each, Failure) and unanswered(each.cause):
            (refused if each.cause in _OF_THE_TEXT else lost).append(each)
            if len(lost) > limit * wanted:
                _stop(lost, wanted, limit)
    none = len(lost) + len(refused) == len(found)
    if none and len(found) > limit * wanted:
        _stop([*lost, *refused], wanted, limit)
    return found


def _stop(lost: list[Failure], wanted: int, limit: float) -> None:
    raise RunFailed(
        f"the teacher's endpoint left {len(lost)} of {wanted} prompts without a reply, more than "
        f"teacher.max_failure_rate ({limit}); the first: {lost[0].cause}: {lost[0].raw[:300]}. See that it serves "
        "teacher.model and start the same command again: replies are kept, and the rest is asked for"
    )
