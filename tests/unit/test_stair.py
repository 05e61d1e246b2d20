"""STAIR's search on trees small enough to check by hand, and a round of it."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from test_loop import of, run

from erpo_ray.config.methods import Search
from erpo_ray.methods.stair import selected
from erpo_ray.rundir import Files, Ledger, read_rows
from erpo_ray.steps import Drawn, grow
from erpo_ray.traces import Step
from erpo_ray.types import Candidate, Pair

TWO = Search(width=2, exploration=1.5)


def drawn(reward: float, *ids: int) -> Drawn:
    """A completion with a step for each id."""
    return Drawn(ids, [Step(f"s{n}", n, n + 1) for n in range(len(ids))], reward)


def test_a_node_that_lacks_draws_is_drawn_behind() -> None:
    root = grow([drawn(1.0, 1, 2)])
    assert selected(root, TWO) is root


def test_draws_that_say_the_same_are_draws() -> None:
    """Two alike have been enough: the search goes on below them, and ends where nothing else comes."""
    found = selected(grow([drawn(1.0, 1, 2), drawn(1.0, 1, 2)]), TWO)
    assert found is None
    found = selected(grow([drawn(1.0, 1, 2), drawn(1.0, 1, 2), drawn(0.5, 3, 4)]), TWO)
    assert found and found.prefix == (3,)


def test_the_way_of_highest_ucb_is_gone() -> None:
    # Child 1: mean 2, twice; child 9: mean 1.5, once. 2 + 1.5 sqrt(ln 3 / 2) = 3.11; 1.5 + 1.5 sqrt(ln 3) = 3.07.
    tree = [drawn(2.0, 1, 2), drawn(2.0, 1, 3), drawn(1.5, 9, 2)]
    assert math.isclose(2 + 1.5 * math.sqrt(math.log(3) / 2), 3.1117, abs_tol=1e-3)
    assert math.isclose(1.5 + 1.5 * math.sqrt(math.log(3)), 3.0722, abs_tol=1e-3)
    # Child 1 has both of its children, and they end: the search turns to the other way.
    found = selected(grow(tree), TWO)
    assert found and found.prefix == (9,)
    longer = [drawn(2.0, 1, 2, 5), drawn(2.0, 1, 3, 5), drawn(1.5, 9, 2)]
    found = selected(grow(longer), TWO)
    assert found and found.prefix == (1, 2)
    curious = Search(width=2, exploration=3.0)
    found = selected(grow(longer), curious)
    assert found and found.prefix == (9,)


def test_where_every_way_ends_nothing_is_drawn() -> None:
    assert selected(grow([drawn(1.0, 1), drawn(0.0, 2)]), TWO) is None


def test_a_round_spends_its_completions_and_pairs_what_was_visited_enough(tmp_path: Path) -> None:
    config = of("stair")
    config = config.model_copy(update={"search": Search(completions=24, visits=2)})
    run(tmp_path, config)
    stage = tmp_path / "run/stages/01-prefer"
    candidates = list(Ledger(Files(), stage / "candidates.jsonl", Candidate, read_only=True))
    assert set(Counter(one.prompt_id for one in candidates).values()) == {24}
    pairs = list(read_rows(stage / "pairs.jsonl", Pair))
    assert pairs and len({pair.reason.split(":")[0] for pair in pairs}) > 1
    for pair in pairs:
        for side in (pair.chosen_ids, pair.rejected_ids):
            step = pair.prefix_ids + side
            through = [one for one in candidates if one.token_ids[: len(step)] == step]
            assert len(through) >= 2 or any(one.token_ids == step for one in through)
