"""Which of the pairs found are kept, so that neither label and no kind of error floods a stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from erpo_ray.types import Label, Pair, PairKind

T = TypeVar("T")

_SKEW = 2
"""One label gets at most this many times the pairs of the other, and one kind of error this many times the pairs that
pull the other way: those of the opposite error, and of a broken form, whose chosen side refuses or answers too..."""
_FREE_SHARE = 4
"""...or this part of `max_pairs` (a quarter; half of that for errors), whichever is more. A round about length, which
is not there to move the line between refusing and answering, takes no more of one kind of error than of the other."""


def balanced(found: Sequence[tuple[Label, Pair]], max_pairs: int, mixed: bool, prefer_short: bool) -> list[Pair]:
    """At most `max_pairs`, labels in turn and kinds in turn within each; `prefer_short` takes length every other time.

    If prompts of both labels are `mixed`, neither label and neither of the opposite errors floods.
    """
    queues: dict[Label, dict[PairKind, list[Pair]]] = {"benign": {}, "harmful": {}}
    for label, pair in found:
        queues[label].setdefault(pair.kind, []).append(pair)
    harmful, benign = queues["harmful"], queues["benign"]
    free = max(1, max_pairs // _FREE_SHARE)
    if mixed:
        skew, least = 1 if prefer_short else _SKEW, max(1, free // 2)
        refusals, answers = _pull(harmful, "safety"), _pull(benign, "over_refusal")
        harmful["safety"] = harmful.get("safety", [])[: max(skew * answers, least)]
        benign["over_refusal"] = benign.get("over_refusal", [])[: max(skew * refusals, least)]
    by_label = [_kinds_in_turn(harmful, prefer_short), _kinds_in_turn(benign, prefer_short)]
    if mixed:
        sizes = [len(pairs) for pairs in by_label]
        by_label = [by_label[0][: max(_SKEW * sizes[1], free)], by_label[1][: max(_SKEW * sizes[0], free)]]
    return list(in_turn(by_label))[:max_pairs]


def _pull(queues: Mapping[PairKind, Sequence[Pair]], error: PairKind) -> int:
    return len(queues.get(error, ())) + len(queues.get("format", ()))


def _kinds_in_turn(queues: Mapping[PairKind, Sequence[Pair]], prefer_short: bool) -> list[Pair]:
    if not prefer_short:
        return list(in_turn(queues.values()))
    others = list(in_turn(queue for kind, queue in queues.items() if kind != "length"))
    return list(in_turn((queues.get("length", ()), others)))


def in_turn(queues: Iterable[Sequence[Pair]]) -> Iterator[Pair]:
    """First of each queue, then second of each, and so on; a queue that ends is passed over."""
    queues = list(queues)
    for turn in range(max(map(len, queues), default=0)):
        yield from (queue[turn] for queue in queues if turn < len(queue))
