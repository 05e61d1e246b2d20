"""Replies from the teacher's endpoint, over a client that does not trust its server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

from erpo_ray.config import Teacher
from erpo_ray.errors import RunFailed
from erpo_ray.judging.endpoint import Completion, Denied, Endpoint
from erpo_ray.types import Failure

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

T = TypeVar("T")

_RETRIES = 2
_OF_THE_TEXT = frozenset(f"http_{status}" for status in (400, 403, 413, 422))
"""Causes by which an endpoint turns down one text, and not another."""
_UNANSWERED = frozenset(
    ("timeout", "no_connection", "redirect", "compressed_reply", "reply_too_long", "no_chat_completion")
)


class Chat:
    """The configured endpoint. Calls may come from several threads.

    Connection errors, rate limits and a server's own errors are retried. Raises UsageError as `Endpoint` does.
    """

    def __init__(self, settings: Teacher) -> None:
        self._settings, self._endpoint = settings, Endpoint("teacher", settings)

    def complete(self, messages: list[ChatCompletionMessageParam]) -> tuple[str, str] | Failure:
        """What the model says, and how that ended (empty where it was not told); a Failure where `unanswered`."""
        said = asyncio.run(self._complete(messages))
        return said.failure if isinstance(said, Denied) else (said.text, said.finish)

    async def _complete(self, messages: list[ChatCompletionMessageParam]) -> Completion | Denied:
        settings = self._settings
        # A server that drips holds no wait long enough to end it, so all attempts have one deadline.
        patience_s = settings.timeout_s * (1 + _RETRIES)
        late = f"no whole reply within {settings.timeout_s:g} s, or {patience_s:g} s in all"
        async with self._endpoint.client(connections=1, retries=_RETRIES) as client:
            request = client.chat.completions.with_raw_response.create(
                model=settings.model,
                messages=messages,
                temperature=settings.temperature,
                max_tokens=settings.max_tokens,
            )
            return await self._endpoint.exchange(request, patience_s, late)


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
