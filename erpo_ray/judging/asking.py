"""Puts cases to a judge model: many at once, at a pace, with one budget of retries for all of them.

A request that failed for the moment, and a reply that is no verdict, are tried again as long as the budget lasts; then
the failure is the result. Whether the server takes a JSON schema is found out by the first requests and remembered.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from erpo_ray.config.judges import JudgeLLM
from erpo_ray.judging.chat_client import Model
from erpo_ray.judging.endpoint import Completion, Denied
from erpo_ray.judging.replies import Form, Values, excerpt, read
from erpo_ray.judging.rubrics import Case, Question, pose
from erpo_ray.types import Failure

Keep = Callable[[Case, Values], None]
"""Told of every verdict as it comes."""

ATTEMPTS = 4
"""Requests for one case at most, so that one that never succeeds leaves retries to the others."""
_RESERVE = 10
"""Retries that are there before any request was made."""
_BACKOFF_S = 0.5
_LONGEST_WAIT_S = 60.0
"""A server that wants to be left alone for longer is not waited for."""
_NO_SCHEMA = {400, 422, 501}
"""What servers answer to a `response_format` they do not know."""
_UNFINISHED = ("length", "content_filter")


@dataclass(frozen=True, slots=True)
class Usage:
    """What was asked and what it cost so far. `cost` is in the currency of the prices, None without them.

    `invalid` counts replies that were no verdict, `cached` verdicts that needed no request, `unmetered` replies whose
    tokens the server did not tell; with such a reply the cost is not known, so it is None too.
    """

    requests: int = 0
    retries: int = 0
    invalid: int = 0
    cached: int = 0
    unmetered: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None


def cost(settings: JudgeLLM, prompt_tokens: int, completion_tokens: int) -> float | None:
    """What these tokens cost; None unless both prices are known."""
    if settings.prompt_price is None or settings.completion_price is None:
        return None
    return (prompt_tokens * settings.prompt_price + completion_tokens * settings.completion_price) / 1e6


class RetryBudget:
    """Retries as a share of requests, pooled: each request earns a part of one, each retry spends one."""

    def __init__(self, share: float) -> None:
        self._share, self._reserve = share, _RESERVE if share else 0
        self._requests = self._spent = 0

    def earn(self) -> None:
        self._requests += 1

    def spend(self) -> bool:
        """Take one if there is one."""
        if self._spent + 1 > self._reserve + self._share * self._requests:
            return False
        self._spent += 1
        return True


class Pace:
    """Evenly spaced turns, and none during a pause that a server asked for."""

    def __init__(self, per_minute: float | None) -> None:
        self._interval = 60 / per_minute if per_minute else 0.0
        self._next = 0.0

    async def turn(self) -> None:
        """Wait for the next one."""
        now = time.monotonic()
        at = max(now, self._next)
        self._next = at + self._interval
        await asyncio.sleep(at - now)

    def pause(self, seconds: float) -> None:
        self._next = max(self._next, time.monotonic() + seconds)


class Asker:
    """One judge model with its budget, pace and accounts; `connect` opens the way to it."""

    def __init__(self, settings: JudgeLLM, connect: Callable[[], AbstractAsyncContextManager[Model]]) -> None:
        self._settings, self._connect = settings, connect
        self._budget, self._pace = RetryBudget(settings.retry_budget), Pace(settings.requests_per_minute)
        self._schema: bool | None = None
        self._requests = self._retries = self._invalid = self._unmetered = 0
        self._prompt_tokens = self._completion_tokens = 0

    def ask(self, cases: Sequence[Case], keep: Keep) -> list[Values | Failure]:
        """The verdict on each case, in order. Not to be called in a running event loop."""
        return asyncio.run(self._all(cases, keep)) if cases else []

    def usage(self, cached: int = 0) -> Usage:
        """The accounts so far."""
        return Usage(
            self._requests,
            self._retries,
            self._invalid,
            cached,
            self._unmetered,
            self._prompt_tokens,
            self._completion_tokens,
            self._cost(),
        )

    def _cost(self) -> float | None:
        return None if self._unmetered else cost(self._settings, self._prompt_tokens, self._completion_tokens)

    async def _all(self, cases: Sequence[Case], keep: Keep) -> list[Values | Failure]:
        slots = asyncio.Semaphore(self._settings.concurrency)
        try:
            async with self._connect() as model, asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(case, model, slots, keep)) for case in cases]
        except BaseExceptionGroup as errors:
            # The first one ended the others.
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _one(self, case: Case, model: Model, slots: asyncio.Semaphore, keep: Keep) -> Values | Failure:
        self._budget.earn()
        attempt = 0
        while True:
            async with slots:
                result = await self._attempt(case, model)
            if isinstance(result, dict):
                keep(case, result)
                return result
            attempt += 1
            if not result.again or result.wait_s > _LONGEST_WAIT_S or attempt == ATTEMPTS or not self._budget.spend():
                return result.failure
            self._retries += 1
            self._pace.pause(result.wait_s)
            await asyncio.sleep(_BACKOFF_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))

    async def _attempt(self, case: Case, model: Model) -> Values | Denied:
        question, form = pose(case), case.rubric.form
        result = await self._complete(question, form, model)
        if isinstance(result, Denied):
            return result
        if result.finish in _UNFINISHED:
            self._invalid += 1
            return Denied(Failure(f"finish_{result.finish}", excerpt(result.text)))
        values = read(result.text, form, question.code)
        if isinstance(values, Failure):
            self._invalid += 1
            return Denied(values, again=True)
        return values

    async def _complete(self, question: Question, form: Form, model: Model) -> Completion | Denied:
        """By schema, unless the server is known to take none."""
        if self._schema is False:
            return await self._request(question, None, model)
        result = await self._request(question, form, model)
        if isinstance(result, Completion):
            self._schema = True
        elif result.status in _NO_SCHEMA and self._schema is None:
            plain = await self._request(question, None, model)
            if isinstance(plain, Completion):
                self._schema = False
            return plain
        return result

    async def _request(self, question: Question, form: Form | None, model: Model) -> Completion | Denied:
        await self._pace.turn()
        self._requests += 1
        result = await model.complete(question, form)
        if isinstance(result, Completion):
            told = result.prompt_tokens, result.completion_tokens
            self._unmetered += None in told
            self._prompt_tokens += told[0] or 0
            self._completion_tokens += told[1] or 0
        return result
