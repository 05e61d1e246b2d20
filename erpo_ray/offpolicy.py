"""Pairs that no policy sampled: an example over what a teacher wrote to go wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from erpo_ray.balance import in_turn
from erpo_ray.types import Example, Pair, identity, seed_of


def negative_pairs(rows: Iterable[tuple[Example, str, Sequence[int]]]) -> list[Pair]:
    """Off-policy pairs: the example over a negative of it, from (example, kind of negative, ids of the negative).

    The kind of negative is the pair's reason. A negative with the ids of its example says nothing and is dropped.
    """
    return [
        Pair(
            id=identity("negative", example.id, kind, *rejected_ids),
            prompt_id=example.prompt_id,
            prompt_ids=example.prompt_ids,
            prefix_ids=(),
            chosen_ids=example.completion_ids,
            rejected_ids=tuple(rejected_ids),
            weight=1.0,
            kind="negative",
            reason=kind,
            length_weight=0.0,
        )
        for example, kind, rejected_ids in rows
        if tuple(rejected_ids) != example.completion_ids
    ]


def sample_negatives(negatives: Sequence[Pair], count: int, seed: int) -> list[Pair]:
    """`count` of these pairs, kinds of negative in turn, drawn by `seed`."""
    queues: dict[str, list[Pair]] = {reason: [] for reason in sorted({pair.reason for pair in negatives})}
    for pair in sorted(negatives, key=lambda pair: seed_of(seed, pair.id)):
        queues[pair.reason].append(pair)
    return list(in_turn(queues.values()))[:count]
