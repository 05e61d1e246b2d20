"""Reinforce stages: their rows, what a round keeps, and one line that makes them of ERPO's rounds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean

import pytest
from fakes import Rote
from test_loop import CONFIG, of, run

from erpo_ray import estimate, rules
from erpo_ray.backend import Ahead, Name
from erpo_ray.config import Config
from erpo_ray.config.reinforce import Reinforce
from erpo_ray.errors import RunFailed, UsageError
from erpo_ray.methods import METHODS
from erpo_ray.report.read import stage as read_stage
from erpo_ray.rundir import Files, Ledger, read_rows
from erpo_ray.types import Advantage, Candidate, LeftOut, Prompt, Request, Surrogate, Verdict


def advantages(place: Path, stage: str = "01-reinforce") -> list[Advantage]:
    return list(read_rows(place / "run/stages" / stage / "advantages.jsonl", Advantage))


def test_stages_are_reinforced_and_learn_from_every_sample_of_a_group(tmp_path: Path) -> None:
    outcomes, backend = run(tmp_path, of("grpo"))
    assert backend.trained == ["00-imitate", "01-reinforce", "02-reinforce", "03-reinforce"]
    folder = tmp_path / "run/stages/01-reinforce"
    drawn = {c.id: c for c in Ledger(Files(), folder / "candidates.jsonl", Candidate, read_only=True)}
    scores = {v.candidate_id: v.scores for v in Ledger(Files(), folder / "verdicts.jsonl", Verdict, read_only=True)}
    found = advantages(tmp_path)
    by_prompt: dict[str, list[Advantage]] = {}
    for row in found:
        by_prompt.setdefault(row.prompt_id, []).append(row)
    left_out = {left.id for left in read_rows(folder / "left_out.jsonl", LeftOut)}
    assert {c.prompt_id for c in drawn.values()} == by_prompt.keys() | left_out and not by_prompt.keys() & left_out
    for prompt_id, group in by_prompt.items():
        assert len(group) == 4
        assert sum(row.advantage for row in group) == pytest.approx(0, abs=1e-9)
        assert fmean(row.advantage**2 for row in group) == pytest.approx(1)
        sampled = sorted(c.token_ids for c in drawn.values() if c.prompt_id == prompt_id)
        assert sorted(row.completion_ids for row in group) == sampled
    unsafe = [row for row in found if row.kind == "safety"]
    assert unsafe and all(row.reward == 0 and row.advantage < 0 for row in unsafe)
    assert all(math.isfinite(row.advantage) for row in found) and all(scores.values())
    assert [set(outcome.state) for outcome in outcomes] == [set(), set(), *[{"reward"}] * 3]
    assert read_stage(folder).kept == {kind: sum(row.kind == kind for row in found) for kind in {r.kind for r in found}}


def test_one_line_makes_reinforce_stages_of_the_rounds(tmp_path: Path) -> None:
    config = Config.model_validate(CONFIG.model_dump() | {"rounds": {"kind": "reinforce"}})
    stages = METHODS["erpo"](config)
    assert [stage.kind for stage in stages] == ["imitate", "prefer", "reinforce", "reinforce"]
    assert stages[:2] == METHODS["erpo"](CONFIG)[:2]
    outcomes, backend = run(tmp_path, config)
    assert backend.trained == ["00-imitate", "01-prefer", "02-reinforce", "03-reinforce"]
    assert outcomes[-1].accepted and "tokens" in outcomes[-1].reason
    assert advantages(tmp_path, "02-reinforce")


def test_a_round_asks_what_a_prefer_round_would(tmp_path: Path) -> None:
    asked = []
    for name, kind in (("one", "prefer"), ("two", "reinforce")):
        place = tmp_path / name
        place.mkdir()
        _, backend = run(place, Config.model_validate(CONFIG.model_dump() | {"rounds": {"count": 1, "kind": kind}}))
        asked.append(backend.asked)
    assert asked[0] == asked[1]


def test_trainers_are_told_to_score_tokens_under_the_policy_that_draws(tmp_path: Path) -> None:
    config = of("grpo")
    told = []

    class Told(Rote):
        def rollouts(
            self,
            requests: Iterable[Request],
            unjudged: Sequence[tuple[Prompt, Candidate]],
            name: Name,
            ahead: Ahead | None = None,
        ) -> Iterator[Candidate | Verdict]:
            if ahead:
                told.append((ahead.reference and ahead.reference.version, ahead.by_token))
            yield from super().rollouts(requests, unjudged, name, ahead)

    run(tmp_path, config, Told(config, rules.load("")))
    assert told == [(None, False), ("skill1", True), ("skill2", True), ("skill3", True)]


def test_a_gate_that_rejects_keeps_the_policy_before(tmp_path: Path) -> None:
    config = of("grpo")
    backend = Rote(config, rules.load(""))
    backend.worsen.add("02-reinforce")
    outcomes, _ = run(tmp_path, config, backend)
    assert [outcome.accepted for outcome in outcomes] == [True, True, True, False, True]
    assert outcomes[3].policy == outcomes[2].policy


def test_a_round_without_a_reward_that_differs_stops_the_run(tmp_path: Path) -> None:
    config = of("grpo").model_copy(update={"reinforce": Reinforce(margin=9.0)})
    with pytest.raises(RunFailed, match="stage 01-reinforce has no advantages"):
        run(tmp_path, config)


def test_settings_become_the_objective() -> None:
    config = Config.model_validate(
        {"method": "grpo", "reinforce": {"clip": 0.1, "kl": 0, "normalise": "token", "reference": "base"}}
    )
    found = METHODS["grpo"](config)[1]
    assert found.kind == "reinforce" and found.shorten
    assert found.objective == Surrogate(0.1, 0.0, "base", "token")
    free = config.model_copy(update={"reinforce": Reinforce(length_weight=0.0)})
    assert [stage.shorten for stage in METHODS["grpo"](free) if stage.kind == "reinforce"] == [False] * 3


def test_samples_are_never_drawn_ahead() -> None:
    with pytest.raises(UsageError, match=r"overlap is next_round, but a reinforce stage.*set overlap=none"):
        METHODS["grpo"](Config(method="grpo", overlap="next_round"))


def test_only_erpo_has_rounds_of_another_kind() -> None:
    with pytest.raises(ValueError, match=r"rounds\.kind is reinforce, but method is dpo.*erpo, or to grpo"):
        Config.model_validate({"method": "dpo", "rounds": {"kind": "reinforce"}})


def test_an_order_without_rewards_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="reinforce.reward"):
        Config.model_validate({"reinforce": {"reward": "lexicographic"}})


def test_costs_count_prompts_as_rows_and_the_scoring_of_what_was_sampled() -> None:
    prefer = {"prompts": 8, "samples": 4, "draw": {"max_tokens": 100}, "fit": {"epochs": 2}}
    config = Config.model_validate({"method": "grpo", "prefer": prefer})
    shape = estimate.Shape(135_000_000, 50_000)
    found = estimate.costs(config, [("01-reinforce", "reinforce")], 40, 30, 20, 25, shape, 2)[1]
    assert (found.completions, found.rows) == (32, 16)
    assert found.trained_tokens == round((16 + 8 / 3) * (25 + 400))
    far = config.model_copy(update={"reinforce": Reinforce(reference="base")})
    found = estimate.costs(far, [("01-reinforce", "reinforce")], 40, 30, 20, 25, shape, 2)[1]
    assert found.trained_tokens == round((16 + 16 / 3) * (25 + 400))
    pairs = config.model_copy(update={"method": "erpo"})
    assert estimate.memory_gib(config, shape, 25) > estimate.memory_gib(pairs, shape, 25)
