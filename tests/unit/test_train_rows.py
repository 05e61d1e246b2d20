"""Rows, their order, and how an optimiser step is shared: no torch."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erpo_ray.errors import UsageError
from erpo_ray.train.rows import (
    Order,
    bearing,
    examples,
    fingerprint,
    groups,
    micro_batch,
    order,
    pairs,
    shares,
    with_skipped,
)
from erpo_ray.types import Advantage, Contrast, Example, Pair


def example(prompt: tuple[int, ...] = (1, 2), completion: tuple[int, ...] = (3, 4, 5), id: str = "e") -> Example:
    return Example(id, "p", "refusal", prompt, completion, "")


def pair(chosen: tuple[int, ...] = (5,), rejected: tuple[int, ...] = (6, 7)) -> Pair:
    return Pair("a", "p", (1, 2), (3,), chosen, rejected, 0.5, "safety", "")


def test_an_example_and_a_mapping_give_the_same_row() -> None:
    row = {"id": "e", "prompt_ids": [1, 2], "completion_ids": [3, 4, 5], "weights": []}
    row |= {"contrasts": [{"at": 1, "chosen": 4, "rejected": 9}], "contrast_weight": 0.5}
    told = replace(example(), contrasts=(Contrast(1, 4, 9),), contrast_weight=0.5)
    assert examples([row], 5) == examples([told], 5)
    assert fingerprint(examples([told], 5)) != fingerprint(examples([replace(told, contrast_weight=1.0)], 5))
    assert examples([row], 5)[0].tokens == 5


def test_the_prefix_of_a_pair_is_context() -> None:
    (row,) = pairs([pair()], 5)
    assert row.context == (1, 2, 3)
    assert row.completions == ((5,), (6, 7))
    assert (row.weight, row.longest, row.tokens) == (0.5, 5, 9)


def test_a_row_over_the_limit_is_refused_not_cut() -> None:
    with pytest.raises(UsageError, match=r"row e has 5 tokens, the limit is 4.*model\.max_length"):
        examples([example()], 4)


def test_weights_are_one_a_completion_token_or_none() -> None:
    (row,) = examples([replace(example(), weights=(1.0, 1.0, 2.0))], 5)
    assert row.token_weights == (1.0, 1.0, 2.0)
    assert fingerprint([row]) != fingerprint(examples([example()], 5))
    with pytest.raises(UsageError, match="row e: 2 weights for 3 completion tokens"):
        examples([replace(example(), weights=(1.0, 2.0))], 5)


@pytest.mark.parametrize("row", [example(prompt=()), example(completion=())])
def test_empty_sides_are_refused(row: Example) -> None:
    with pytest.raises(UsageError, match="row e: an empty prompt or completion"):
        examples([row], 9)


def advantage(id: str, completion: tuple[int, ...], value: float = 0.5, prompt: tuple[int, ...] = (1, 2)) -> Advantage:
    return Advantage(id, "p", prompt, (3,), completion, 1.0, value, "passes", "")


def test_completions_behind_one_context_are_a_row_in_their_order() -> None:
    rows = [advantage("a", (5,)), advantage("b", (6, 7), -1.0), advantage("c", (8,), prompt=(9,)), advantage("d", (5,))]
    first, second = groups(rows, 5)
    assert (first.id, first.context, first.completions) == ("a", (1, 2, 3), ((5,), (6, 7), (5,)))
    assert (first.advantages, second.advantages) == ((0.5, -1.0, 0.5), (0.5,))
    assert (second.context, second.completions, first.longest) == ((9, 3), ((8,),), 5)
    assert fingerprint([first]) != fingerprint(groups([replace(row, advantage=0.1) for row in rows], 5)[:1])
    with pytest.raises(UsageError, match="row a has 5 tokens, the limit is 4"):
        groups(rows, 4)


def test_tokens_of_a_group_share_its_weight() -> None:
    (row,) = groups([advantage("a", (5,)), advantage("b", (6, 7, 8))], 9)
    assert shares(row, "sequence") == pytest.approx([1 / 2, 1 / 6])
    assert shares(row, "token") == pytest.approx([1 / 4, 1 / 4])


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_the_shares_of_a_group_add_up_to_one(lengths: list[int]) -> None:
    (row,) = groups([advantage(f"r{at}", (4,) * length) for at, length in enumerate(lengths)], 99)
    for normalise in ("sequence", "token"):
        each = shares(row, normalise)
        assert sum(share * length for share, length in zip(each, lengths, strict=True)) == pytest.approx(1)


def test_what_a_side_skips_is_scored_apart_and_taken_off() -> None:
    (row,) = pairs([replace(pair((5, 6, 8), (6, 7)), chosen_skip=2)], 9)
    assert row.skips == (2, 0)
    assert with_skipped(row).completions == ((5, 6, 8), (6, 7), (5, 6))
    assert bearing(row, (-9.0, -4.0, -7.0)) == (-2.0, -4.0)
    (both,) = pairs([replace(pair((5, 6, 8), (6, 7)), chosen_skip=2, rejected_skip=1)], 9)
    assert bearing(both, (-9.0, -4.0, -7.0, -1.0)) == (-2.0, -3.0)
    (plain,) = pairs([pair()], 9)
    assert with_skipped(plain) == plain and bearing(plain, (-9.0, -4.0)) == (-9.0, -4.0)
    assert fingerprint([row]) != fingerprint([both])


@pytest.mark.parametrize(("chosen", "rejected"), [(1, 0), (0, 2), (-1, 0)])
def test_a_side_that_skips_all_of_itself_is_refused(chosen: int, rejected: int) -> None:
    with pytest.raises(UsageError, match="pair a: skips .* leave a side without a token that bears loss"):
        pairs([replace(pair(), chosen_skip=chosen, rejected_skip=rejected)], 9)


def test_a_pair_of_equal_sides_is_refused() -> None:
    with pytest.raises(UsageError, match="pair a: chosen and rejected are the same"):
        pairs([pair((5,), (5,))], 9)


def test_no_rows_are_refused() -> None:
    with pytest.raises(UsageError, match="no rows to train on"):
        examples([], 9)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 4), st.integers(1, 3), st.integers(0, 5))
def test_an_epoch_visits_every_row_once_in_passes_sorted_by_length(
    lengths: list[int], micro: int, passes: int, seed: int
) -> None:
    found = order(lengths, micro * passes, micro, seed, 0)
    assert sorted(found) == list(range(len(lengths)))
    for at in range(0, len(found), micro):
        rows = [lengths[i] for i in found[at : at + micro]]
        assert rows == sorted(rows)


def test_passes_waste_little_and_steps_mix_short_and_long() -> None:
    lengths = [random.Random(n).choice((70, 75, 80, 130, 150, 190)) for n in range(800)]
    found = order(lengths, 16, 8, 0, 0)
    padded = sum(8 * max(lengths[i] for i in found[at : at + 8]) for at in range(0, 800, 8))
    assert padded < 1.06 * sum(lengths)
    means = [sum(lengths[i] for i in found[at : at + 16]) / 16 for at in range(0, 800, 16)]
    assert max(means) - min(means) < 50
    assert means != sorted(means)


def test_the_order_changes_with_the_epoch_and_repeats_with_the_seed() -> None:
    lengths = list(range(100))
    sampler = Order(lengths, 10, 5, seed=3)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert first != second
    again = Order(lengths, 10, 5, seed=3)
    again.set_epoch(1)
    assert list(again) == second
    assert len(again) == 100


@given(st.integers(1, 40), st.sampled_from([(8, 1, 2), (8, 2, 2), (12, 3, 2), (12, 2, 3)]), st.integers(0, 3))
def test_ranks_take_each_row_once_and_as_many_each(rows: int, sizes: tuple[int, int, int], epoch: int) -> None:
    batch, micro, workers = sizes
    sampler = Order(list(range(rows)), batch, micro, seed=3, together=micro * workers)
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert len(found) == len(sampler) and len(found) % (micro * workers) == 0
    assert found[:rows] == order(list(range(rows)), batch, micro, 3, epoch)
    assert all(index >= rows for index in found[rows:]) and len(found) - rows < micro * workers


@pytest.mark.parametrize(
    ("batch", "micro", "workers", "expected"),
    [(16, 8, 1, (8, 2)), (16, 8, 2, (8, 1)), (12, 8, 1, (6, 2)), (8, 100, 1, (8, 1)), (7, 4, 1, (1, 7))],
)
def test_a_step_takes_exactly_the_batch(batch: int, micro: int, workers: int, expected: tuple[int, int]) -> None:
    assert micro_batch(batch, micro, workers) == expected


@pytest.mark.parametrize(("batch", "workers"), [(16, 3), (2, 4)])
def test_a_batch_that_workers_cannot_share_is_refused(batch: int, workers: int) -> None:
    with pytest.raises(UsageError, match=f"batch_size {batch} cannot be shared evenly by {workers} training workers"):
        micro_batch(batch, 8, workers)


def test_the_fingerprint_tells_rows_apart() -> None:
    assert fingerprint(examples([example()], 9)) == fingerprint(examples([example()], 8))
    assert fingerprint(examples([example()], 9)) != fingerprint(examples([example(completion=(3, 4))], 9))
    assert fingerprint(examples([example((1, 2), (3,))], 9)) != fingerprint(examples([example((1,), (2, 3))], 9))


@pytest.mark.parametrize("wrong", [Contrast(3, 4, 9), Contrast(-1, 4, 9), Contrast(0, 4, 4)])
def test_a_contrast_stands_in_its_completion_between_two_tokens(wrong: Contrast) -> None:
    with pytest.raises(UsageError, match="row e: a contrast lies outside the completion or is between equals"):
        examples([replace(example(), contrasts=(wrong,))], 5)
