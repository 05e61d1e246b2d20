"""The tree of steps on trees small enough to check by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erpo_ray.steps import Drawn, Node, grow, preferences, spine, ucb
from erpo_ray.traces import Step


def drawn(reward: float, *parts: tuple[int, ...]) -> Drawn:
    """A completion of steps s0, s1, ... with these ids."""
    steps, ids = [], ()
    for number, part in enumerate(parts):
        steps.append(Step(f"s{number}", len(ids), len(ids) + len(part)))
        ids += part
    return Drawn(ids, steps, reward)


THREE = [drawn(1.0, (1,), (2, 3), (4,)), drawn(3.0, (1,), (5,), (6,)), drawn(-1.0, (9, 9), (2, 3))]


def test_values_are_means_over_all_completions_through_a_node() -> None:
    root = grow(THREE)
    assert (root.visits, root.value) == (3, 1.0)
    one, nine = root.children.values()
    assert [(n.name, n.ids, n.visits, n.value, n.ended) for n in (one, nine)] == [
        ("s0", (1,), 2, 2.0, False),
        ("s0", (9, 9), 1, -1.0, False),
    ]
    # The same ids behind another prefix are another node.
    assert [child.prefix for child in one.children.values()] == [(1, 2, 3), (1, 5)]
    assert [(n.prefix, n.ids, n.ended) for n in nine.children.values()] == [((9, 9, 2, 3), (2, 3), True)]


def test_the_best_sibling_stands_over_the_worst_behind_what_they_share() -> None:
    found = [(p.prefix_ids, p.chosen.ids, p.rejected.ids, p.gap) for p in preferences(grow(THREE), 0.5, 0.8)]
    assert found == [((), (1,), (9, 9), 3.0), ((1,), (5,), (2, 3), 2.0)]


def test_margin_least_value_and_visits_leave_pairs_out() -> None:
    root = grow(THREE)
    assert [p.prefix_ids for p in preferences(root, 2.0, 0.0)] == [()]
    assert [p.prefix_ids for p in preferences(root, 0.0, 2.5)] == [(1,)]
    assert list(preferences(root, 0.0, 0.0, visits=2)) == []


def test_every_sibling_over_each_worse_one() -> None:
    root = grow([drawn(3.0, (1,)), drawn(2.0, (2,)), drawn(2.0, (3, 3)), drawn(0.0, (4,))])
    found = [(p.chosen.ids[0], p.rejected.ids[0]) for p in preferences(root, 0.5, 0.8, every=True)]
    assert found == [(1, 2), (1, 3), (1, 4), (2, 4), (3, 4)]
    assert [(p.chosen.ids[0], p.rejected.ids[0]) for p in preferences(root, 0.5, 0.8)] == [(1, 4)]


def test_the_spine_follows_the_best_and_of_equals_the_shorter() -> None:
    root = grow(THREE)
    assert [node.prefix for depth in range(4) if (node := spine(root, depth))] == [(), (1,), (1, 5), (1, 5, 6)]
    assert spine(root, 4) is None
    even = grow([drawn(1.0, (1, 1)), drawn(1.0, (2,))])
    assert (node := spine(even, 1)) and node.ids == (2,)


def test_a_completion_without_steps_is_one() -> None:
    root = grow([Drawn((7, 8), (), -3.0)])
    assert [(n.name, n.ids, n.ended) for n in root.children.values()] == [("all", (7, 8), True)]


def test_ucb_against_the_formula() -> None:
    child = Node("s", (1,), 0, [1.0, 0.0])
    assert ucb(child, 8, 1.5) == pytest.approx(0.5 + 1.5 * math.sqrt(math.log(8) / 2))
    assert ucb(Node("s", (2,), 0), 8, 1.5) == math.inf


part = st.lists(st.integers(0, 2), min_size=1, max_size=2).map(tuple)
some = st.lists(st.builds(drawn, st.floats(-3, 3), part, part, part), min_size=1, max_size=12)


@given(some, st.booleans())
def test_siblings_differ_in_their_step_alone(completions: list[Drawn], every: bool) -> None:
    root = grow(completions)
    assert sum(child.visits for child in root.children.values()) == root.visits == len(completions)
    for found in preferences(root, 0.0, -3.0, every=every):
        for side in (found.chosen, found.rejected):
            assert side.prefix == found.prefix_ids + side.ids
            assert any(one.ids[: len(side.prefix)] == side.prefix for one in completions)
        assert found.gap > 0 and found.chosen.ids != found.rejected.ids
