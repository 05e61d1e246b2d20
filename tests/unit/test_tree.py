"""Trees of segments: every row is a path, shared contexts stand once, nothing is lost or computed twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from erpo_ray.train.tree import WORTH_SHARING, Segment, Tree, plant

IDS = st.lists(st.integers(0, 2), min_size=1, max_size=14).map(tuple)
ROWS = st.lists(st.tuples(IDS, IDS), min_size=1, max_size=8)
Rows = list[tuple[tuple[int, ...], tuple[int, ...]]]


def whole(tree: Tree, row: int) -> tuple[int, ...]:
    return tuple(token for each in tree.path(tree.leaves[row]) for token in tree.segments[each].tokens)


@given(ROWS)
def test_the_path_to_a_leaf_is_its_row(rows: Rows) -> None:
    tree = plant(rows)
    for at, (context, completion) in enumerate(rows):
        assert whole(tree, at) == context + completion
        *above, leaf = (tree.segments[each] for each in tree.path(tree.leaves[at]))
        assert leaf.completion == len(completion) and not any(segment.completion for segment in above)
    assert len(set(tree.leaves)) == len(set(rows))


@given(ROWS)
def test_segments_stand_level_by_level_behind_their_parents(rows: Rows) -> None:
    segments = plant(rows).segments
    assert [segment.level for segment in segments] == sorted(segment.level for segment in segments)
    for segment in segments:
        assert segment.tokens
        parent = segments[segment.parent] if segment.parent >= 0 else Segment(-1, (), -1, 0)
        assert (segment.level, segment.start) == (parent.level + 1, parent.start + len(parent.tokens))


@given(ROWS)
def test_an_interval_holds_those_of_the_segments_below_and_no_other(rows: Rows) -> None:
    tree = plant(rows)
    intervals = tree.intervals()
    assert sorted(entry for entry, _ in intervals) == list(range(len(intervals)))
    for below, (own, _) in enumerate(intervals):
        on_path = [above for above, (entry, exit) in enumerate(intervals) if entry <= own < exit]
        assert sorted(on_path) == sorted(tree.path(below))


@given(ROWS)
def test_no_more_is_computed_than_without_sharing(rows: Rows) -> None:
    assert plant(rows).tokens <= sum(len(context) + len(completion) for context, completion in set(rows))


def test_a_group_over_one_prompt_has_its_prompt_once_and_equal_answers_once() -> None:
    prompt = tuple(range(10, 30))
    tree = plant([(prompt, (1, 2)), (prompt, (1, 3)), (prompt, (1, 2)), (prompt, (4,))])
    assert tree.segments == (
        Segment(-1, prompt, 0, 0),
        Segment(0, (1, 2), 1, 20, 2),
        Segment(0, (1, 3), 1, 20, 2),
        Segment(0, (4,), 1, 20, 1),
    )
    assert tree.leaves == (1, 2, 1, 3)


def test_prompts_under_one_template_share_its_beginning_and_keep_their_own() -> None:
    system = tuple(range(50, 50 + WORTH_SHARING))
    tree = plant([((*system, 1, 2), (7,)), ((*system, 3), (8,)), ((*system, 3), (9,)), (system, (6,))])
    assert tree.segments == (
        Segment(-1, system, 0, 0),
        Segment(0, (6,), 1, 8, 1),
        Segment(0, (1, 2, 7), 1, 8, 1),
        Segment(0, (3,), 1, 8),
        Segment(3, (8,), 2, 9, 1),
        Segment(3, (9,), 2, 9, 1),
    )
    assert tree.leaves == (2, 4, 5, 1)


def test_too_little_in_common_is_not_shared() -> None:
    assert [segment.level for segment in plant([((1, 2, 3), (4,)), ((1, 2, 5), (4,))]).segments] == [0, 0]
