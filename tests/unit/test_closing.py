"""Groups are offered to the trainers as they close: each once, whole, and nothing of what passes is changed."""

from __future__ import annotations

from collections.abc import Iterator

from erpo_ray.cluster.closing import closing
from erpo_ray.train.rows import Sequences
from erpo_ray.types import Candidate, Prompt, Request, Sampling, Verdict

ASKED = [Request(Prompt(name, "?"), (1, 2), (0, 1), Sampling(1.0, 9)) for name in "abc"]


def drawn(prompt: str, sample: int, ids: tuple[int, ...]) -> Candidate:
    return Candidate(f"{prompt}{sample}", prompt, sample, ids, "", "stop", "v")


ITEMS: list[Candidate | Verdict] = [
    drawn("a", 0, (5,)),
    Verdict("a0", "none"),
    drawn("b", 1, (6,)),
    drawn("b", 0, (7,)),  # b closes
    drawn("a", 1, (5, 8)),  # a closes
    drawn("c", 0, (9,)),
    Verdict("a1", "none"),
]


def row(name: str, *completions: tuple[int, ...]) -> Sequences:
    return Sequences(name, (1, 2), completions)


def test_everything_passes_and_each_group_is_offered_when_it_closes() -> None:
    seen: list[object] = []

    def offer(rows: tuple[Sequences, ...]) -> bool:
        seen.append(rows)
        return True

    def items() -> Iterator[Candidate | Verdict]:
        for item in ITEMS:
            seen.append(item)
            yield item

    assert list(closing(items(), ASKED, 99, offer)) == ITEMS
    assert seen == [*ITEMS[:4], (row("b", (6,), (7,)),), ITEMS[4], (row("a", (5,), (5, 8)),), *ITEMS[5:]]


def test_what_is_not_taken_is_offered_again_with_the_next() -> None:
    offers: list[tuple[Sequences, ...]] = []

    def busy_once(rows: tuple[Sequences, ...]) -> bool:
        offers.append(rows)
        return len(offers) > 1

    list(closing([*ITEMS, drawn("c", 1, (4,))], ASKED, 99, busy_once))
    b, a, c = row("b", (6,), (7,)), row("a", (5,), (5, 8)), row("c", (9,), (4,))
    assert offers == [(b,), (b, a), (c,)]


def test_what_is_not_trained_on_is_left_out() -> None:
    offers: list[tuple[Sequences, ...]] = []
    items = [drawn("a", 0, ()), drawn("a", 1, (3,)), drawn("b", 0, (3, 4, 5)), drawn("b", 1, (3, 4, 5, 6))]
    same = [drawn("c", 0, (3,)), drawn("c", 1, (3,))]
    list(closing([*items, *same], ASKED, 5, lambda rows: offers.append(rows) is None))
    assert offers == [(row("a", (3,)),), (row("b", (3, 4, 5)),), (row("c", (3,)),)]
    offers.clear()
    list(closing(items[2:], ASKED, 4, lambda rows: offers.append(rows) is None))
    assert offers == []


def test_two_requests_for_one_prompt_close_apart() -> None:
    offers: list[tuple[Sequences, ...]] = []
    twice = [ASKED[0], Request(ASKED[0].prompt, (1, 2), (2,), Sampling(1.0, 9), prefix_ids=(5,))]
    items = [drawn("a", 2, (5, 4)), drawn("a", 0, (6,)), drawn("a", 1, (7,))]
    assert list(closing(items, twice, 9, lambda rows: offers.append(rows) is None)) == items
    assert offers == [(row("a", (5, 4)),), (row("a", (6,), (7,)),)]
