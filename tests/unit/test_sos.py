"""SoS: the search by hand, its operators, and the stage in a run whose fake model heeds its system prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from fakes import PLAIN, Rote
from hypothesis import given
from hypothesis import strategies as st
from test_loop import CONFIG, metrics, run

from erpo_ray import rules
from erpo_ray.config import Config
from erpo_ray.config.methods import Evolution
from erpo_ray.methods.sos import BANK, Score, System, evolution, from_bank
from erpo_ray.rundir import Files, Ledger
from erpo_ray.types import Candidate, Request

SETTINGS = Evolution(children=2, generations=3)


def played(
    worth: Mapping[System, Score], propose: list[System]
) -> tuple[System, list[list[System]], tuple[str, list[System]]]:
    """The search with children given one after another: what it ends with, its generations, what was asked last."""
    asked: list[tuple[str, list[System]]] = []

    def given_child(operator: str, parents: Sequence[System], seed: int) -> System:
        asked.append((operator, list(parents)))
        return propose.pop(0)

    search, seen, generations = evolution(SETTINGS, given_child, 0), {}, []
    try:
        generation = next(search)
        while True:
            generations.append(generation)
            seen |= {system: worth[system] for system in generation}
            generation = search.send(seen)
    except StopIteration as end:
        assert propose == []
        return end.value, generations, asked[-1]


def test_one_objective_is_searched_to_its_end_then_the_other_and_the_optima_are_crossed() -> None:
    a, b, c, d, e, f, g, h, i, j, x, y = ((name,) for name in "abcdefghijxy")
    worth = {
        (): Score(0.0, 0.9), a: Score(0.3, 0.5), b: Score(0.2, 0.5),
        c: Score(0.8, 0.2), d: Score(0.1, 0.1),  # safety rises from a to c
        e: Score(0.8, 0.1), f: Score(0.7, 0.1),  # and no further: e is as safe and of less use
        g: Score(0.1, 0.7), h: Score(0.2, 0.8),  # use rises from c to h
        i: Score(0.5, 0.8), j: Score(0.1, 0.1),  # and no further, but i is as useful and safer
        x: Score(0.7, 0.8), y: Score(0.8, 0.3),
    }  # fmt: skip
    best, generations, crossed = played(worth, [a, b, c, d, e, f, g, h, i, j, x, y])
    assert generations == [[(), a, b], [c, d], [e, f], [g, h], [i, j], [x, y]]
    assert crossed == ("crossover", [c, i]) and best == x


def test_a_search_that_finds_nothing_better_keeps_the_templates_own() -> None:
    names = [(name,) for name in "abcdefgh"]
    worth = {(): Score(0.9, 0.9), **{name: Score(0.5, 0.5) for name in names}}
    best, generations, _ = played(worth, list(names))
    assert best == () and len(generations) == 4


@given(st.integers(0, 2**62), st.lists(st.sampled_from(["semantic", "safety", "utility"]), max_size=12))
def test_children_hold_each_idea_once_in_one_order(seed: int, operators: list[str]) -> None:
    places = {s: (aim, name) for aim, ideas in BANK.items() for name, said in ideas.items() for s in said}
    order = [(aim, name) for aim, ideas in BANK.items() for name in ideas]
    system: System = ()
    other = from_bank("utility", [from_bank("safety", [()], seed)], seed + 1)
    for step, operator in enumerate(operators):
        child = from_bank(operator, [system], seed + step)  # pyright: ignore[reportArgumentType]
        ideas = [places[sentence] for sentence in child]
        assert ideas == sorted(set(ideas), key=order.index)
        before = {places[sentence] for sentence in system}
        if operator == "semantic":
            assert set(ideas) == before and len(set(child) - set(system)) == min(1, len(system))
        else:
            aims = {aim for aim, _ in set(ideas) - before}
            assert before <= set(ideas) and aims <= {"opening", operator}
        system = child
    crossed = from_bank("crossover", [system, other], seed)
    assert set(crossed) <= {*system, *other}


class Heeding(Rote):
    """Refuses harmful prompts when the system prompt says `decline`, all prompts when it says nothing of `answer`."""

    def _candidate(self, request: Request, sample: int, id: str) -> Candidate:
        system = "".join(map(chr, request.prompt_ids)).partition("\x03")[0]
        declines = any(said in system for said in BANK["safety"]["decline"])
        answers = any(said in system for said in BANK["utility"]["answer"])
        refuses = declines and (request.prompt.label == "harmful" or not answers)
        text = "I'm sorry, but I can't help with that." if refuses else PLAIN
        return Candidate(id, request.prompt.id, sample, (*map(ord, text), 0), text, "stop", f"skill{self._skill}")


def sos(**settings: int) -> Config:
    return CONFIG.model_copy(update={"method": "sos", "sos": Evolution(prompts=8, **settings)})


def test_a_run_finds_the_system_prompt_that_the_model_heeds(tmp_path: Path) -> None:
    config = sos(children=8, generations=4)
    outcomes, backend = run(tmp_path, config, Heeding(config, rules.load("")))
    assert [row["stage"] for row in metrics(tmp_path)] == ["base", "00-evolve"]
    assert backend.trained == [] and outcomes[-1].accepted
    found = outcomes[-1].evaluation
    assert (found.harmful_refused.value, found.benign_refused.value) == (1.0, 0.0)
    (line,) = (tmp_path / "run/stages/00-evolve/system_prompt.json").read_text().splitlines()
    for aim, name in (("safety", "decline"), ("utility", "answer")):
        assert any(said in line for said in BANK[aim][name])


def test_a_search_stays_within_what_the_plan_allows_and_asks_nothing_twice(tmp_path: Path) -> None:
    config = sos(children=3, generations=2)
    _, backend = run(tmp_path, config, Heeding(config, rules.load("")))
    ledger = Ledger(Files(), tmp_path / "run/stages/00-evolve/candidates.jsonl", Candidate, read_only=True)
    systems = {row.prompt_id.partition("~")[0] for row in ledger}
    assert len(list(ledger)) == 8 * len(systems) and 3 <= len(systems) <= 1 + 3 * (2 + 2 * 2)
    assert len(set(backend.sampled)) == len(backend.sampled)


def test_a_best_system_prompt_before_the_end_is_an_error() -> None:
    from erpo_ray.methods import METHODS

    (stage,) = METHODS["sos"](sos())
    assert stage.kind == "evolve"
    with pytest.raises(ValueError, match="has not ended"):
        stage.best([])
