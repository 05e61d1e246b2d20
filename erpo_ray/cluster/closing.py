"""Groups of candidates as they close, handed on while rollouts go on. Free of Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from erpo_ray.train.rows import Sequences
from erpo_ray.types import Candidate, Request, Verdict

Offer = Callable[[tuple[Sequences, ...]], bool]
"""Whether these rows were taken."""


def closing(
    items: Iterable[Candidate | Verdict], requests: Sequence[Request], max_length: int, offer: Offer
) -> Iterator[Candidate | Verdict]:
    """All `items`, unchanged; each group is offered, as a row of its completions, once all of it was drawn.

    What is not taken is offered again with the next that closes; after the last there is no other offer. Completions
    that were not sampled or are longer with their prompt than `max_length` are left out: none of them is trained on.
    """
    asked = {(request.prompt.id, k): number for number, request in enumerate(requests) for k in request.samples}
    drawn: dict[int, list[Candidate]] = {}
    waiting: list[Sequences] = []
    for item in items:
        yield item
        if not isinstance(item, Candidate):
            continue
        number = asked[item.prompt_id, item.sample]
        mine = drawn.setdefault(number, [])
        mine.append(item)
        if len(mine) == len(requests[number].samples):
            waiting += _row(requests[number], drawn.pop(number), max_length)
            if waiting and offer(tuple(waiting)):
                waiting.clear()


def _row(request: Request, group: Sequence[Candidate], max_length: int) -> list[Sequences]:
    room = max_length - len(request.prompt_ids)
    fitting = dict.fromkeys(c.token_ids for c in group if 0 < len(c.token_ids) <= room)
    return [Sequences(request.prompt.id, request.prompt_ids, tuple(fitting))] if fitting else []
