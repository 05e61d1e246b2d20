"""What every method keeps, by being listed: it plays on a fake backend, and a killed run ends as an unbroken one."""

from __future__ import annotations

import importlib
import signal
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
from fakes import Rote
from loop_driver import BOOK, drive, ids
from test_loop import CONFIG, of, run

from erpo_ray import estimate, settings
from erpo_ray.config import Config, Prefer, Rounds
from erpo_ray.config.methods import Constraint
from erpo_ray.errors import RunFailed
from erpo_ray.methods import METHODS, dpo
from erpo_ray.methods.base import History, Outcome, Stage, Task
from erpo_ray.rundir import read_rows
from erpo_ray.types import Group, LeftOut, Pair

ROOT = Path(__file__).parents[2]
SHAPE = estimate.Shape(134_515_008, 49_152)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_killed_and_continued(tmp_path: Path, method: str) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    for place in (unbroken, broken):
        place.mkdir()
    assert (whole := drive(unbroken, method=method)).code == 0, whole.errors
    trainings = len(METHODS[method](of(method)))
    for failpoint in ("candidates:appended:30", *["policy:renamed"] * min(2, trainings)):
        before = ids(broken)
        killed = drive(broken, failpoint, method)
        assert killed.code == -signal.SIGKILL, killed.errors
        assert before <= ids(broken)
    before = ids(broken)
    continued = drive(broken, method=method)
    assert continued.code == 0, continued.errors
    sampled = continued.sampled
    assert not before & set(sampled) and len(set(sampled)) == len(sampled)
    assert ids(broken) == ids(unbroken) == before | set(sampled)
    assert rows(broken) == rows(unbroken) != {}
    assert ends(broken) == ends(unbroken)


@pytest.mark.parametrize("method", METHODS)
def test_stages_follow_from_the_configuration_alone(method: str) -> None:
    assert METHODS[method](of(method)) == METHODS[method](of(method))
    other = of(method).model_copy(update={"seed": 1})
    assert METHODS[method](other) != METHODS[method](of(method))


@pytest.mark.parametrize("method", METHODS)
def test_a_method_says_where_it_is_from_and_what_it_assumes(method: str) -> None:
    told = importlib.import_module(METHODS[method].__module__).__doc__ or ""
    assert [word for word in ("arXiv", "Assumption", "Edge case") if word not in told] == []


def toy(config: Config) -> tuple[Stage, ...]:
    """A method of two lines: one round on plain answers, then one in which every pair weighs half."""
    first, *_, last = METHODS["dpo"](config)
    return first, Halved(**{field.name: getattr(last, field.name) for field in fields(last)})


@dataclass(frozen=True, slots=True)
class Halved(dpo.Prefer):
    def pairs(self, task: Task, history: History, groups: Sequence[Group]) -> tuple[list[Pair], list[LeftOut]]:
        found, left_out = dpo.Prefer.pairs(self, task, history, groups)
        return [replace(pair, weight=pair.weight / 2) for pair in found], left_out


def test_a_line_of_the_dict_is_all_that_a_new_method_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "toy", toy)
    config = settings.load(ROOT / "configs/dpo_demo.yaml", ("method=toy",), tuple(METHODS)).model_copy(
        update={"data": CONFIG.data, "prefer": CONFIG.prefer}
    )
    costs = estimate.costs(config, [(s.name, s.kind) for s in toy(config)], 28, 28, 24, 40.0, SHAPE, 2)
    assert [cost.kind for cost in costs] == ["evaluate", "prefer", "evaluate", "prefer", "evaluate"]

    class Cut(Rote):
        def rollouts(self, requests, unjudged, name, ahead=None):
            for number, item in enumerate(super().rollouts(requests, unjudged, name, ahead)):
                if number == 60:
                    raise RunFailed("power cut")
                yield item

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for place in (whole, cut):
        place.mkdir()
    outcomes, _ = run(whole, config, Rote(config, BOOK, plain=True))
    with pytest.raises(RunFailed, match="power cut"):
        run(cut, config, Cut(config, BOOK, plain=True))
    before = ids(cut)
    continued, backend = run(cut, config, Rote(config, BOOK, plain=True))
    assert ends(cut) == ends(whole) and rows(cut) == rows(whole) and len(continued) == len(outcomes) == 3
    assert before and not before & set(backend.sampled)
    weights = [
        {pair.weight for pair in read_rows(path, Pair)} for path in sorted(whole.glob("run/stages/*/pairs.jsonl"))
    ]
    assert weights == [{1.0}, {0.5}]


def rows(place: Path) -> dict[str, bytes]:
    """Every file of examples, pairs and advantages, and the system prompts of a search."""
    names = ("examples.jsonl", "pairs.jsonl", "advantages.jsonl", "system_prompt.json", "tried.jsonl")
    found = [path for name in names for path in place.glob(f"run/stages/*/{name}")]
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in sorted(found)}


def ends(place: Path) -> list[tuple[Any, ...]]:
    """How each stage ended."""
    found = [next(iter(read_rows(path, Outcome))) for path in sorted(place.glob("run/stages/*/outcome.json"))]
    return [(end.stage, end.accepted, end.lengths, end.missed, end.state) for end in found]


def test_sft_is_the_first_stage_of_erpo() -> None:
    assert METHODS["sft"](CONFIG) == METHODS["erpo"](CONFIG)[:1]


def test_dpo_has_rounds_on_plain_answers_with_one_objective() -> None:
    config = Config.model_validate({"method": "dpo", "prefer": {"gamma": 0.5}, "rounds": {"count": 2, "gamma": 9.0}})
    found: Any = METHODS["dpo"](config)
    assert [(stage.kind, stage.traced, stage.objective.gamma) for stage in found] == [("prefer", False, 0.5)] * 3


def test_a_method_that_reached_its_end_plays_no_further_stage(tmp_path: Path) -> None:
    loose = {
        "method": "cdpo",
        "constraint": Constraint(cost_limit=0.9),
        "prefer": Prefer(prompts=28, samples=4, lagrange_multiplier=0.0),
    }
    config = CONFIG.model_copy(update=loose)
    assert len(METHODS["cdpo"](config)) == 4
    outcomes, backend = run(tmp_path, config)
    assert backend.trained == ["00-imitate", "01-prefer", "02-prefer"]
    assert outcomes[-1].state["multiplier"] == 0 and 0 < outcomes[-1].state["cost"] < 0.9
    assert (tmp_path / "run" / "policy").resolve() == outcomes[-1].policy.path.resolve()
    again, backend = run(tmp_path, config)
    assert again == outcomes and backend.trained == backend.sampled == []


def test_section_weights_blame_parts_and_leave_the_same_candidates(tmp_path: Path) -> None:
    found = {}
    for weighed in (False, True):
        place = tmp_path / str(weighed)
        place.mkdir()
        prefer = Prefer(prompts=28, samples=4, negatives=6, section_weights=weighed)
        run(place, CONFIG.model_copy(update={"prefer": prefer, "rounds": Rounds(count=0)}))
        found[weighed] = list(read_rows(place / "run/stages/01-prefer/pairs.jsonl", Pair))
    parts = [pair for pair in found[True] if "weighs" in pair.reason]
    assert parts and len(found[True]) == len(found[False]) + len(parts) / 2
    assert sum(pair.chosen_skip > 0 and pair.rejected_skip > 0 for pair in parts) == len(parts) / 2
    assert {pair.weight for pair in parts} == {0.5}
    assert {pair.prompt_id for pair in found[True]} == {pair.prompt_id for pair in found[False]}
