"""Whether what a worker answers can be true of what it was asked. Pure, and applied before anything is acknowledged.

A process whose memory, device or code is broken may answer anything. Where it cannot be told whose answer that is, or
of which weights, nothing of it is believed, and the worker is lost. One completion that cannot be stands for itself: it
becomes one that was not sampled, with the reason, and the others beside it count.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from erpo_ray.cluster.protocol import Drawn, WorkerLost
from erpo_ray.engines.vllm import Finished
from erpo_ray.types import UNREADABLE, Failure, Policy, Request, Verdict, decode, encode

LONGEST_TEXT = 2**20
"""Characters: no completion comes near, and each would be stored, judged and shown."""
IN_A_ROW = 8
"""Completions that cannot be, of one worker and without a sound one in between, after which it is lost."""

_FINISHES = ("stop", "length", "step", "error")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Sense:
    """What is known of the engines of a pass; without it only what can be true of no engine is found.

    `vocabulary`: ids lie below it. `stop_ids` end a completion. `decode` gives the text of ids. `exact`: no more tokens
    are drawn than are asked for, as a search does.
    """

    policy: Policy | None = None
    vocabulary: int = 0
    stop_ids: tuple[int, ...] = ()
    decode: Callable[[Sequence[int]], str] | None = None
    exact: bool = False

    def news(self, worker: int, found: Any) -> list[Finished | Drawn]:
        """What the worker tells, if it can be read and is of the policy. WorkerLost otherwise."""
        who = f"rollout worker {worker}"
        if type(found) is not list or not all(type(one) in (Finished, Drawn) for one in found):
            raise WorkerLost(f"{who} answered {_short(found)}, which is no list of completions")
        for one in found:
            if isinstance(one, Drawn):
                if type(one.tokens) is not int or one.tokens < 0:
                    raise WorkerLost(f"{who} has drawn {_short(one.tokens)} tokens, which is no number of tokens")
            elif type(one.prompt_id) is not str or type(one.sample) is not int:
                raise WorkerLost(f"{who} answered {_short((one.prompt_id, one.sample))}, which names no sample")
            elif type(one.policy) is not str or (self.policy and not self.policy.drew(one.policy)):
                given = self.policy.version if self.policy else "of another name"
                raise WorkerLost(f"{who} names its samples {_short(one.policy)}, and was given policy {given}")
        return found

    def require_end(self, worker: int, tokens: int, asked: int) -> None:
        """WorkerLost when the worker has drawn more tokens than it was asked for: it would do so for ever."""
        if self.exact and tokens > asked:
            raise WorkerLost(f"rollout worker {worker} has drawn {tokens} tokens, and was asked for {asked} at most")

    def sound(self, one: Finished, request: Request) -> Finished:
        """The completion as it is, or one that was not sampled and says why."""
        why = self._fault(one, request)
        if not why:
            return one
        told = f"the engine answered nonsense: {why}"
        return Finished(one.prompt_id, one.sample, (), "", "error", one.policy, told)

    def _fault(self, one: Finished, request: Request) -> str:
        ids, given = one.token_ids, request.prefix_ids
        if wrong := _misshapen(one):
            return wrong
        if one.finish == "error":
            return "an error that has tokens" if ids or one.text else ""
        if one.given != len(given) or ids[: one.given] != given[: one.given]:
            return f"it does not begin with the {len(given)} tokens it was given"
        if outside := [token for token in ids if token < 0 or (self.vocabulary and token >= self.vocabulary)]:
            return f"token id {outside[0]}, of a vocabulary of {self.vocabulary or 'any size'}"
        if len(ids) <= one.given:
            return "it is empty"
        if self.exact and len(ids) - one.given > request.sampling.max_tokens:
            return f"{len(ids) - one.given} tokens, and {request.sampling.max_tokens} were asked for at most"
        if one.finish == "step" and not request.sampling.stop:
            return "it ended with a step, and nothing was to end one"
        if one.finish == "stop" and self.stop_ids and ids[-1] not in self.stop_ids:
            return f"finish is stop, and its last token, {ids[-1]}, ends nothing"
        if self.decode and one.text != self.decode(ids):
            return f"its text, {_short(one.text)}, is not that of its tokens"
        return ""


ANY = Sense()
"""Of any engines."""


def _misshapen(one: Finished) -> str:
    """What of it is not of its type, or no number or text at all."""
    if type(one.token_ids) is not tuple:
        return f"token ids are {_short(one.token_ids)}"
    if strange := [token for token in one.token_ids if type(token) is not int]:
        return f"a token id is {_short(strange[0])}"
    if type(one.finish) is not str or one.finish not in _FINISHES:
        return f"finish is {_short(one.finish)}"
    if type(one.given) is not int or one.given < 0:
        return f"{_short(one.given)} tokens were given"
    if type(one.seconds) not in (int, float) or not math.isfinite(one.seconds) or one.seconds < 0:
        return f"it took {_short(one.seconds)} seconds"
    for name, text in (("text", one.text), ("error", one.error)):
        if type(text) is not str:
            return f"its {name} is {_short(text)}"
        if len(text) >= LONGEST_TEXT:
            return f"its {name} has {len(text)} characters"
        if found := _SURROGATE.search(text):
            return f"its {name} has a lone surrogate at character {found.start()}"
    return ""


def verdicts_of(worker: int, found: Any) -> list[Verdict]:
    """What a judge says, each verdict that cannot be as a failure. WorkerLost when it cannot be told of whom."""
    if type(found) is not list or not all(
        type(one) is Verdict and type(one.candidate_id) is str and type(one.judge) is str for one in found
    ):
        raise WorkerLost(f"judge worker {worker} answered {_short(found)}, which is no list of verdicts")
    faults = [(one, _wrong(one)) for one in found]
    return [
        Verdict(one.candidate_id, one.judge, failure=Failure("nonsense", why)) if why else one for one, why in faults
    ]


def _wrong(one: Verdict) -> str:
    try:
        # A number that is none has no JSON, and neither has what a verdict should not hold.
        same = decode(encode(one), Verdict) == one
    except (*UNREADABLE, NotImplementedError, TypeError, UnicodeEncodeError) as error:
        return f"the judge answered nonsense: {error}"
    axes = (one.scores.safety, one.scores.utility) if one.scores else ()
    if not same or any(abs(axis) > 1 + 1e-6 for axis in axes) or (one.scores and one.scores.length < 0):
        return f"the judge answered nonsense: scores {_short(one.scores)}"
    return "the judge answered nonsense: scores and a failure" if one.scores and one.failure else ""


def tokens_of(requests: Sequence[Request]) -> int:
    """The most that may be drawn for them."""
    return sum(len(request.samples) * request.sampling.max_tokens for request in requests)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."
