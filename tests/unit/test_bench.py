"""The benches that need no model run, and end in their measures; of the others, what they reckon with."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "bench"))

import actors  # noqa: E402
import rollout  # noqa: E402
import round as one_round  # noqa: E402
import rounds  # noqa: E402
import timeline  # noqa: E402
from driver import SAMPLES  # noqa: E402
from sleepers import Lengths  # noqa: E402
from timeline import Span  # noqa: E402


def test_the_driver_bench_runs_and_lists_its_measures() -> None:
    ran = subprocess.run(
        [sys.executable, "bench/driver.py", "--short"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    head, *measures = ran.stdout.rpartition("measure ")[2].splitlines()
    assert head.split() == ["ratio"]
    assert [line.split()[0] for line in measures] == 2 * ["driver:"] + 2 * ["64"] + 3 * ["candidates"] + ["verdicts"]
    assert all(float(line.split()[-1]) > 0 for line in measures[2:])


def test_the_bench_of_overlapping_rounds_runs() -> None:
    ran = subprocess.run(
        [sys.executable, "bench/overlap.py", "--short"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    sampling, training, plain, _ = map(float, ran.stdout.splitlines()[1].split())
    # One after the other is no shorter than both.
    assert plain > sampling + training


def test_the_rollout_bench_asks_what_a_round_of_the_demo_asks() -> None:
    config = rounds.demo(Path("model"))
    asked = rollout.asked(config, None)
    assert Counter(prompt.label for prompt in asked) == {"harmful": 26, "benign": 38}
    assert rollout.asked(config, 5) == asked[:5]


def test_a_smaller_round_has_fewer_pairs_in_proportion() -> None:
    small = rounds.demo(Path("model"), prompts=16)
    assert (small.prefer.prompts, small.prefer.max_pairs) == (16, 12)
    assert small.model_copy(update={"prefer": rounds.demo(Path("model")).prefer}) == rounds.demo(Path("model"))


@pytest.mark.parametrize(("name", "kinds"), [("imitate", ["imitate"]), ("prefer", ["prefer"]), ("base", [])])
def test_a_bench_plays_one_stage_of_the_demo(name: str, kinds: list[str]) -> None:
    assert [stage.kind for stage in rounds.only(name)(rounds.demo(Path("model")))] == kinds


@pytest.mark.parametrize(
    ("rows", "updates", "most", "passes"),
    [(128, 6, 8, (7, 3)), (128, 8, 8, (8, 2)), (32, 2, 16, (16, 1)), (5, 6, 8, (1, 1))],
)
def test_rows_are_split_evenly_over_updates(rows: int, updates: int, most: int, passes: tuple[int, int]) -> None:
    assert one_round.split(rows, updates, most) == passes


@given(st.integers(1, 1000), st.integers(1, 50), st.integers(1, 32))
def test_a_split_never_draws_more_than_there_is(rows: int, updates: int, most: int) -> None:
    size, passes = one_round.split(rows, updates, most)
    assert 1 <= size <= most and passes >= 1
    assert size * passes * updates <= max(rows, updates)
    assert (size * passes + passes) * updates > rows or size == most


def event(name: str, begun: float, ended: float, worker: str = "a") -> dict[str, Any]:
    return {
        "cat": name,
        "name": name.rpartition(".")[2],
        "tid": f"worker:{worker}",
        "ts": begun * 1e6,
        "dur": (ended - begun) * 1e6,
    }


def test_rays_timeline_becomes_calls_of_workers_and_jobs_of_the_trainer() -> None:
    events = [
        event("task::RolloutWorker.__init__", 0, 9),
        event("task::RolloutWorker.advance", 10, 12),
        event("task::JudgeWorker.judge", 12, 13, "j"),
        event("task::RolloutWorker.advance", 11, 14, "b"),
        event("ray.wait", 10, 14, "driver"),
        # Two ranks take the first job, and wait for the second as soon as each is done.
        event("task::Desk.take", 5, 20, "d"),
        event("task::Desk.take", 6, 21, "d"),
        event("task::Desk.finish", 30, 30.5, "d"),
        event("task::Desk.take", 29, 40, "d"),
        event("task::Desk.take", 31, 41, "d"),
        event("task::Desk.finish", 45, 45.5, "d"),
    ]
    assert sorted(timeline.spans(events), key=lambda span: (span.role, span.begun)) == [
        Span("judge 0", "judge", 12, 13),
        Span("rollout 0", "advance", 10, 12),
        Span("rollout 1", "advance", 11, 14),
        Span("trainer", "job", 20, 30),
        Span("trainer", "job", 40, 45),
    ]


def test_the_share_of_time_in_which_one_works_and_all_others_wait() -> None:
    found = [Span("rollout 0", "", 0, 4), Span("rollout 0", "", 4, 6), Span("judge 0", "", 3, 8), Span("x", "", 9, 20)]
    inside = timeline.within(found, 1, 11)
    assert [(span.begun, span.ended) for span in inside] == [(1, 4), (4, 6), (3, 8), (9, 11)]
    assert timeline.shares(inside, 1, 11) == {
        "judge 0": (0.5, 0.2),
        "rollout 0": (0.5, 0.2),
        "x": (0.2, 0.2),
        "nobody": (0.1, 0.1),
    }


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20), st.integers(1, 9)), max_size=12))
def test_shares_cover_the_time_once(drawn: list[tuple[str, int, int]]) -> None:
    inside = timeline.within([Span(role, "", begun, begun + long) for role, begun, long in drawn], 4, 16)
    found = timeline.shares(inside, 4, 16)
    nobody, _ = found.pop("nobody")
    assert all(0 <= alone <= worked <= 1 + 1e-9 for worked, alone in found.values())
    assert nobody + sum(worked for worked, _ in found.values()) >= 1 - 1e-9
    assert nobody + sum(alone for _, alone in found.values()) <= 1 + 1e-9
    assert timeline.shares([], 4, 16) == {"nobody": (1, 1)}


def test_the_driver_works_where_its_clock_of_computing_moves() -> None:
    ticks = [(0.0, 0.0), (0.1, 0.1), (0.2, 0.16), (0.3, 0.17), (0.4, 0.26)]
    assert timeline.computed(ticks) == [Span("driver", "computes", 0.0, 0.2), Span("driver", "computes", 0.3, 0.4)]


def test_a_trace_has_a_named_row_for_each_role() -> None:
    events = timeline.trace([Span("trainer", "job", 2.0, 3.5), Span("judge 0", "judge", 1.0, 1.5)])["traceEvents"]
    assert {(one["tid"], one["args"]["name"]) for one in events if one["ph"] == "M"} == {(0, "judge 0"), (1, "trainer")}
    drawn = [(one["tid"], one["name"], one["ts"], one["dur"]) for one in events if one["ph"] == "X"]
    assert drawn == [(1, "job", 2e6, 1.5e6), (0, "judge", 1e6, 0.5e6)]


def test_what_sleeping_engines_take_is_what_the_paper_says() -> None:
    """Completions of one length, in whole waves over all places: only the driver comes on top."""
    even, waves, workers = Lengths(768, 0.0, 768), 4, 8
    found = actors.simulated(workers, waves * workers * actors.PLACES // SAMPLES, even)
    assert found.paper == pytest.approx(waves * 768 * actors.token_seconds())
    # Engines wait for the driver between two calls; the margin is for a machine that is busy with other things.
    assert found.paper <= found.simulated <= 1.5 * found.paper + found.driver + 5
    assert found.busy == pytest.approx(found.paper / found.simulated, rel=1e-6)
