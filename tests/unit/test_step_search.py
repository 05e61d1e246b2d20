"""Best-of-N and beam search on completions small enough to follow by hand, and the value that guides them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from fakes import Letters
from hypothesis import given
from hypothesis import strategies as st
from test_loop import of, run

from erpo_ray.config.decoding import Decode
from erpo_ray.engines.search import SearchEngine, by_judge, by_process
from erpo_ray.engines.vllm import Engine, Finished
from erpo_ray.errors import UsageError
from erpo_ray.evaluate.search import Ask, Beginning, Search, beam, best, best_of, borders, step_end
from erpo_ray.evaluate.values import PENALTIES, Valued, nodes, regress, ridge
from erpo_ray.explore import Part
from erpo_ray.prompts.mixing import gather
from erpo_ray.rules import load
from erpo_ray.rundir import Ledger
from erpo_ray.rundir.lines import ledger_rows
from erpo_ray.traces import Dialect, compose, render
from erpo_ray.types import Candidate, Failure, Policy, Prompt, Request, Sampling, Scores, Verdict

TRACE = compose("A lock. Harmless.", "crime.1: met.", "Answer.", "Oil it.")


def done(search: Search, draw: Callable[[Ask], list[Beginning]]) -> tuple[Beginning, list[list[Ask]]]:
    """What a search comes to when `draw` gives what it asks for, and all that it asked for."""
    asked = [next(search)]
    while True:
        try:
            asked.append(search.send([each for ask in asked[-1] for each in draw(ask)]))
        except StopIteration as end:
            return end.value, asked


def test_the_best_of_n_is_the_shortest_of_the_most_valuable() -> None:
    drawn = [Beginning((1, 2), 0.5, True), Beginning((1, 2, 3), 0.9, True), Beginning((4, 5), 0.9, True)]
    found, asked = done(best_of(3), lambda ask: drawn)
    assert found == drawn[2]
    assert asked == [[Ask((), 3, whole=True)]]


def test_a_beam_goes_on_from_the_best_and_an_ended_one_stands_among_them() -> None:
    """Four first steps, two kept: (1,) of 2 and (3,) of 1. Behind each two: (1, 5) ends with 1.5, (3, 6) is worth 3 and
    goes on; (1, 7) and (3, 8) fall out. Then all four samples stand behind (3, 6), which ends worse than (1, 5)."""
    values: dict[tuple[int, ...], float] = {(1,): 2, (2,): 0, (3,): 1, (4,): -1}
    values |= {(1, 5): 1.5, (1, 7): 0, (3, 6): 3, (3, 8): 1} | {(3, 6, k): 1.0 + k / 10 for k in range(4)}
    ended = {(1, 5), *((3, 6, k) for k in range(4))}

    def draw(ask: Ask) -> list[Beginning]:
        behind = [ids for ids in values if ids[:-1] == ask.prefix]
        assert len(behind) == ask.count
        return [Beginning(ids, values[ids], ids in ended) for ids in behind]

    found, asked = done(beam(4, 2), draw)
    assert asked == [
        [Ask((), 4, whole=False)],
        [Ask((1,), 2, whole=False), Ask((3,), 2, whole=False)],
        [Ask((3, 6), 4, whole=False)],
    ]
    assert found == Beginning((1, 5), 1.5, True)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32))
def test_a_beam_spends_its_samples_at_each_step_and_ends_with_a_whole_completion(n: int, width: int, seed: int) -> None:
    rng = random.Random(seed)

    def draw(ask: Ask) -> list[Beginning]:
        deep = len(ask.prefix) >= 3
        return [
            Beginning((*ask.prefix, rng.randrange(3)), rng.random(), deep or rng.random() < 0.3)
            for _ in range(ask.count)
        ]

    found, asked = done(beam(n, width), draw)
    assert found.ended and 1 <= len(found.ids) <= 4
    assert all(sum(ask.count for ask in asks) == n and len(asks) <= max(1, min(n, width)) for asks in asked)


def test_without_a_value_there_is_no_best() -> None:
    with pytest.raises(ValueError, match="nothing was drawn that has a value"):
        best([], 1)


@pytest.mark.parametrize(
    ("dialect", "marks"),
    [("lines", ("\nRules:", "\nPath:")), ("tags", ("<rule_verification>", "<path_calibration>"))],
)
def test_a_step_ends_where_a_later_one_begins(dialect: Dialect, marks: tuple[str, str]) -> None:
    text = render(TRACE, dialect)
    at = [text.index(mark.strip()) for mark in marks]
    assert borders("", dialect) == (*marks, "</think>")
    assert borders(text[: at[0]], dialect) == (marks[1], "</think>")
    assert borders(text[: at[1]], dialect) == ("</think>",)
    assert borders(text[: text.index("</think>") + 8], dialect) == ()
    assert borders("No trace", dialect) == (*marks, "</think>")
    given = 0
    for mark, start in zip(marks, at, strict=True):
        drawn = list(text[: start + len(mark.strip())])
        assert step_end(drawn, given, dialect) == start
        given = start
    closed = list(text[: text.index("</think>") + 8])
    assert step_end(closed, given, dialect) == len(closed)
    assert step_end(list("No trace at all"), 0, dialect) == 15


class Chained:
    """An engine by rote: whole traces, each behind its prefix, ended by stop texts as vLLM ends them."""

    version = "v"
    renderer = Letters()
    texts = [render(TRACE, "lines"), render(compose("A lock. Harmful.", "crime.1: broken.", "Refuse.", "No."), "lines")]

    def __init__(self) -> None:
        self.renderer.stop_ids = (0,)  # pyright: ignore[reportAttributeAccessIssue]
        self.renderer.decode = lambda ids: "".join(Letters().pieces(ids))  # pyright: ignore[reportAttributeAccessIssue]
        self.calls: list[int] = []

    def begin(self, seed: int) -> None: ...

    def advance(self, new: Sequence[Request], budget_s: float) -> list[Finished]:
        self.calls.append(sum(len(request.samples) for request in new))
        return [self._one(request, sample) for request in new for sample in request.samples]

    def _one(self, request: Request, sample: int) -> Finished:
        prefix, stops = "".join(Letters().pieces(request.prefix_ids)), request.sampling.stop
        fitting = [text for text in self.texts if text.startswith(prefix)]
        text = fitting[sample % len(fitting)]
        ends = [at + len(stop) for stop in stops if (at := text.find(stop, len(prefix))) >= 0]
        cut = text[: min(ends, default=len(text))]
        ids = tuple(map(ord, cut)) if ends else Letters().encode_completion(cut)
        finish = "step" if ends else "stop"
        return Finished(request.prompt.id, sample, ids, cut, finish, "v", given=len(request.prefix_ids))


def asked(count: int) -> list[Request]:
    return [
        Request(Prompt(f"p{at}", "How do I oil a lock?", "benign"), (1, 2), (0,), Sampling(0.0, 200))
        for at in range(count)
    ]


def engine(decode: Decode, value: Callable[..., list[float | Failure]]) -> tuple[SearchEngine, Chained]:
    below = Chained()
    search = decode.search

    def begin() -> Search:
        return beam(search.samples, search.width) if decode.name == "beam" else best_of(search.samples)

    built: Engine = below  # pyright: ignore[reportAssignmentType]
    return SearchEngine(built, begin, value, search, "lines", "name"), below


def harmless(rows: Sequence[tuple[Request, Finished]]) -> list[float | Failure]:
    return [float("Harmless" in one.text) for _, one in rows]


@pytest.mark.parametrize(("name", "calls"), [("best-of-n", [8]), ("beam", [8, 8, 8, 8])])
def test_searches_of_all_prompts_go_step_by_step_together(name: str, calls: list[int]) -> None:
    search, below = engine(Decode.model_validate({"name": name, "search": {"samples": 4, "width": 1}}), harmless)
    found, new = [], asked(2)
    while new or search.pending:
        found += search.advance(new)
        new = []
    assert below.calls == calls
    assert [(one.prompt_id, one.sample, one.finish, one.policy) for one in found] == [
        ("p0", 0, "stop", "v+name"),
        ("p1", 0, "stop", "v+name"),
    ]
    assert {one.text for one in found} == {Chained.texts[0]}
    assert all(one.token_ids == Letters().encode_completion(one.text) for one in found)


def test_a_search_of_which_nothing_has_a_value_is_an_error_with_its_cause() -> None:
    search, _ = engine(Decode(name="best-of-n"), lambda rows: [Failure("timeout", "60 s") for _ in rows])
    (found,) = search.advance(asked(1))
    assert (found.finish, found.token_ids) == ("error", ())
    assert found.error == "none of 8 continuations has a value; the first: timeout: 60 s"
    assert search.pending == 0


def test_a_judge_values_by_stair_and_a_failure_is_none() -> None:
    class Judge:
        name = "j"

        def judge(self, items: Sequence[tuple[Prompt, object]]) -> list[Verdict]:
            good = Verdict("0", "j", Scores(1.0, 0.5, 3))
            return [Verdict("2", "j"), Verdict("1", "j", failure=Failure("timeout")), good]

    rows = [(request, Finished(request.prompt.id, 0, (5, 0), "x", "stop", "v")) for request in asked(3)]
    assert by_judge(Judge())(rows) == [2.5, Failure("timeout"), Failure("no_scores", "j")]
    assert by_process(lambda ids: [float(sum(each)) for each in ids])(rows) == [8.0, 8.0, 8.0]
    assert by_process(lambda ids: [])([]) == []


def test_a_judge_cannot_value_steps() -> None:
    with pytest.raises(ValueError, match="a judge reads whole completions only"):
        Decode.model_validate({"name": "beam", "search": {"value": "judge"}})
    with pytest.raises(ValueError, match="search.width is 9, more than search.samples"):
        Decode.model_validate({"name": "beam", "search": {"width": 9}})


def test_ridge_is_the_weighted_mean_and_slope() -> None:
    """States -1, 1, 1 with values 0, 2, 4: two visits on the first and one on each other give the line 1.5 + 1.5 x."""
    states, values = np.array([[-1.0], [1.0], [1.0]]), np.array([0.0, 2.0, 4.0])
    weights, bias = ridge(states, values, np.array([2.0, 1.0, 1.0]), 1e-9)
    assert (weights[0], bias) == (pytest.approx(1.5, abs=1e-6), pytest.approx(1.5, abs=1e-6))
    # Centred the sum of visits * state^2 is 4 and that of visits * state * value 6; a penalty of 4 halves the slope.
    assert ridge(states, values, np.array([2.0, 1.0, 1.0]), 4.0)[0][0] == pytest.approx(0.75)


def test_a_head_learns_what_states_tell_and_says_how_well() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(400, 6))
    values = states @ np.array([1.0, -2.0, 0, 0, 0.5, 0]) + 3
    rows = [Valued(f"p{at % 40}", (at,), value, 1 + at % 3) for at, value in enumerate(values)]
    head = regress(states, rows)
    assert head.correlation > 0.99 and head.nodes == 400
    assert np.abs(head(states) - values).max() < 0.2
    noise = regress(rng.normal(size=(400, 6)), rows)
    assert abs(noise.correlation) < 0.3
    flat = regress(states, [Valued(row.prompt_id, row.ids, 1.5, 1) for row in rows])
    assert flat.correlation == 0 and np.allclose(flat(states), 1.5)
    assert sorted(PENALTIES) == list(PENALTIES)


@pytest.mark.parametrize("method", ["stair", "grpo"])
def test_nodes_are_those_of_the_trees_that_a_run_kept(tmp_path: Path, method: str) -> None:
    config = of(method)
    run(tmp_path, config)
    prompts = gather(config.data, tuple(load().categories), config.seed).train
    found = nodes(tmp_path / "run", prompts, Letters().render, Letters().pieces, "lines")
    assert {row.ids[0] for row in found} == {1} and {row.prompt_id for row in found} <= {each.id for each in prompts}
    assert max(row.visits for row in found) > 1
    stages = {path.parent for name in ("pairs", "advantages") for path in tmp_path.glob(f"run/stages/*/{name}.jsonl")}
    kept = {row.prompt_id for stage in stages for row in ledger_rows(stage / "candidates.jsonl", Candidate)}
    assert {row.prompt_id for row in found} == kept and len(stages) == 3
    assert all(-3 <= row.value <= 3 for row in found)


def test_a_run_without_rounds_has_nothing_to_learn_from(tmp_path: Path) -> None:
    run(tmp_path, of("sft"))
    with pytest.raises(UsageError, match="no round of preference .*search.value to judge"):
        nodes(tmp_path / "run", (), Letters().render, Letters().pieces, "lines")


def test_samples_of_a_way_of_decoding_belong_to_their_policy() -> None:
    class Kept(list[Candidate]):
        path = Path("run/stages/harmful/candidates.jsonl")

    def part(version: str) -> Part:
        kept: Ledger[Candidate] = Kept([Candidate("c", "p", 0, (1,), "x", "stop", version)])  # pyright: ignore[reportAssignmentType]
        return Part("harmful/", (), kept, kept)  # pyright: ignore[reportArgumentType]

    policy = Policy(Path("m"), "v")
    part("v").require(policy)
    part("v+beam-8-0a1b2c3d").require(policy)
    with pytest.raises(UsageError, match=r"candidate c was drawn from policy w\+beam, but this stage draws from v "):
        part("w+beam").require(policy)
