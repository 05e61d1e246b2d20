"""The loop over a backend that answers by rote: what stages make, what the gate keeps, what a second start repeats."""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from fakes import PLAIN, Letters, Rote

from erpo_ray import rules
from erpo_ray.config import Config, Data, Imitate, JudgeRules, Prefer, Rounds, Source
from erpo_ray.config.judges import JudgeEnsemble, JudgeGuard, JudgeMember
from erpo_ray.errors import RunFailed, UsageError
from erpo_ray.judging.ensemble import Ensemble, Review, committee_of
from erpo_ray.loop import align, synthesize
from erpo_ray.methods import METHODS
from erpo_ray.methods.base import History, Task
from erpo_ray.prompts import mixing
from erpo_ray.rundir import Files, Ledger, RunDir, read_rows
from erpo_ray.rundir.lines import plain_rows
from erpo_ray.scene import Scene
from erpo_ray.teachers import TemplateTeacher
from erpo_ray.telemetry import Span, Step
from erpo_ray.types import Axes, Candidate, Example, LeftOut, Pair, Prompt, Request, Sampling, Scores, Verdict

FRAUD = {"category": "fraud"}
STAGES = ["00-imitate", "01-prefer", "02-prefer", "03-prefer"]
CONFIG = Config(
    data=Data(
        train=(Source(path="seeds", split="train", where=FRAUD),),
        evaluate=(Source(path="seeds", split="evaluate", where=FRAUD),),
    ),
    imitate=Imitate(harmful=28, benign=28),
    prefer=Prefer(prompts=28, samples=4, negatives=6),
    rounds=Rounds(count=2),
)


def of(method: str) -> Config:
    """`CONFIG` for a method: one that averages rewards needs a composition that has them, R2D its dialect."""
    prefer = (
        CONFIG.prefer.model_copy(update={"composition": "stair"}) if method in ("safer", "stair") else CONFIG.prefer
    )
    model = CONFIG.model.model_copy(update={"dialect": "pivots"}) if method == "r2d" else CONFIG.model
    return CONFIG.model_copy(update={"method": method, "prefer": prefer, "model": model})


def run(
    place: Path,
    config: Config = CONFIG,
    backend: Rote | None = None,
    start: str = "0",
    show: Callable[[Path], None] = lambda path: None,
    files: Files | None = None,
    say: Callable[[str], None] = lambda line: None,
    play: Callable[..., Any] = align,
) -> tuple[Any, Rote]:
    book = backend.book if backend else rules.load("")
    backend = backend or Rote(config, book)
    base = place / "base"
    base.mkdir(exist_ok=True)
    (base / "skill").write_text(start)
    mix = mixing.gather(config.data, tuple(book.categories), config.seed)
    held = mixing.per_source(mix.evaluate, 12)
    greedy = Sampling(0.0, 64)
    asked = [Request(p, Letters().render(p.text), (0,), greedy) for p in held]

    @contextmanager
    def phase(name: str, total: int):
        yield lambda n: None

    with RunDir.open(place / "run", config, files=files) as directory:
        task = Task(config, backend.policy(base), mix.train, book, Letters(), TemplateTeacher(config.model.dialect))
        scene = Scene(backend, directory, config, asked, phase, say, show=lambda: show(directory.path))
        return play(METHODS[config.method](config), task, scene, directory), backend


def metrics(place: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]


def test_stages_in_the_papers_order_each_with_its_row(tmp_path: Path):
    outcomes, backend = run(tmp_path)
    assert backend.trained == ["00-imitate", "01-prefer", "02-prefer", "03-prefer"]
    assert [row["stage"] for row in metrics(tmp_path)] == ["base", "00-imitate", "01-prefer", "02-prefer", "03-prefer"]
    assert [outcome.evaluation.harmful_refused.value for outcome in outcomes] == [0, 1, 1, 1, 1]
    assert [outcome.evaluation.benign_refused.value for outcome in outcomes] == [0, 0, 0, 0, 0]
    assert (tmp_path / "run" / "policy" / "skill").read_text() == "4"


def test_further_prompts_teach_their_intent_and_cost_no_sample(tmp_path: Path):
    imitate = Imitate(harmful=28, benign=28, harmful_intents=5, benign_intents=9)
    _, backend = run(tmp_path, CONFIG.model_copy(update={"imitate": imitate}))
    rows = list(read_rows(tmp_path / "run/stages/00-imitate/examples.jsonl", Example))
    told = [row for row in rows if row.kind == "intent"]
    assert len(rows) - len(told) == 56
    assert Counter(row.text.rsplit(" ", 1)[1] for row in told) == {"Harmful": 5, "Harmless": 9}
    assert len({row.prompt_id for row in rows}) == len(rows)
    sampled = Ledger(Files(), tmp_path / "run/stages/00-imitate/candidates.jsonl", Candidate, read_only=True)
    assert len(list(sampled)) == 28 * imitate.answers


def test_examples_hold_refusals_and_the_policys_own_answers(tmp_path: Path):
    run(tmp_path)
    rows = list(read_rows(tmp_path / "run/stages/00-imitate/examples.jsonl", Example))
    refused = [row for row in rows if "\nPath: Refuse" in row.text]
    answered = [row for row in rows if PLAIN in row.text]
    assert len(refused) == len(answered) == 28 and len(rows) == 56
    assert all(row.completion_ids == Letters().encode_completion(row.text) for row in rows)


def test_only_stage_two_takes_negatives_and_rounds_refresh_the_reference(tmp_path: Path):
    run(tmp_path)
    kinds = [
        {pair.kind for pair in read_rows(tmp_path / f"run/stages/{stage}/pairs.jsonl", Pair)}
        for stage in ("01-prefer", "02-prefer", "03-prefer")
    ]
    assert "negative" in kinds[0] and "negative" not in kinds[1] | kinds[2]
    assert "safety" in kinds[0] and "over_refusal" in kinds[0]


def test_a_second_start_samples_and_trains_nothing(tmp_path: Path):
    first, _ = run(tmp_path)
    second, backend = run(tmp_path)
    assert second == first
    assert (backend.sampled, backend.trained, backend.served) == ([], [], [])


def test_a_second_start_with_other_weights_of_the_same_model_is_refused(tmp_path: Path):
    run(tmp_path, CONFIG.model_copy(update={"rounds": Rounds(count=0)}))
    with pytest.raises(UsageError, match="begun with model .*put the model back that the run began with"):
        run(tmp_path, CONFIG.model_copy(update={"rounds": Rounds(count=0)}), start="7")


def test_a_second_start_never_leads_back_to_an_older_policy(tmp_path: Path):
    class Pointing(Files):
        targets: list[str] = []

        def symlink(self, target: str, path: Path) -> None:
            self.targets.append(target)
            super().symlink(target, path)

    run(tmp_path, files=(files := Pointing()))
    names = ["../base", *(f"stages/{stage}/policy" for stage in STAGES)]
    assert files.targets == names
    files.targets.clear()
    run(tmp_path, files=files)
    assert set(files.targets) == {names[-1]}


def test_what_a_page_needs_is_in_the_run_directory(tmp_path: Path):
    run(tmp_path)
    root = tmp_path / "run"
    held = list(read_rows(root / "stages/base/prompts.jsonl", Prompt))
    assert len(held) == 24 and {prompt.label for prompt in held} == {"harmful", "benign"}
    for name in STAGES:
        assert list(read_rows(root / "stages" / name / "training.jsonl", Step)) == [Step(1, 1.0), Step(2, 0.5)]
    spans = list(plain_rows(root / "phases.jsonl", Span))
    phases = [(name, phase) for name in STAGES for phase in ("rollouts", "training", "evaluation")]
    assert [(span.stage, span.phase) for span in spans] == [("base", "evaluation"), *phases]
    assert all(0 <= span.seconds < 60 for span in spans)
    run(tmp_path)
    assert list(plain_rows(root / "phases.jsonl", Span)) == spans


@pytest.mark.parametrize("at", [1, 3, 4])
def test_the_page_is_drawn_after_what_became_whole_and_its_fault_costs_no_work(tmp_path: Path, at: int):
    drawn: list[set[str]] = []

    def show(path: Path) -> None:
        names = ("examples.jsonl", "pairs.jsonl", "policy", "stage.json")
        there = {
            file.relative_to(path / "stages").as_posix() for name in names for file in path.glob(f"stages/*/{name}")
        }
        drawn.append(there.difference(*drawn))
        if len(drawn) == at:
            raise ZeroDivisionError

    backend = Rote(CONFIG, rules.load(""))
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, backend=backend, show=show)
    run(tmp_path, backend=backend, show=show)
    rows = {name: "examples.jsonl" if name == "00-imitate" else "pairs.jsonl" for name in STAGES}
    made = [files for name in STAGES for files in ({rows[name]}, {"policy", "stage.json"})]
    names = [name for name in STAGES for _ in range(2)]
    wanted = [{f"{name}/{file}" for file in files} for name, files in zip(names, made, strict=True)]
    assert drawn == [{"base/stage.json"}, *wanted]
    assert len(backend.sampled) == len(set(backend.sampled))
    assert backend.trained == STAGES


def test_a_moved_run_goes_on_in_its_new_place(tmp_path: Path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    run(old)
    old.rename(new)
    shutil.rmtree(new / "run/stages/03-prefer")
    outcomes, backend = run(new)
    assert backend.trained == ["03-prefer"]
    assert [outcome.policy.path.relative_to(new / "run/stages").parts[0] for outcome in outcomes[1:]] == [
        "00-imitate", "01-prefer", "02-prefer", "03-prefer"
    ]  # fmt: skip
    assert outcomes[2].policy.path.is_dir()


def test_every_candidate_is_judged_and_carries_the_policy_that_wrote_it(tmp_path: Path):
    run(tmp_path)
    stage = tmp_path / "run/stages/02-prefer"
    candidates = list(Ledger(Files(), stage / "candidates.jsonl", Candidate, read_only=True))
    verdicts = {verdict.candidate_id for verdict in Ledger(Files(), stage / "verdicts.jsonl", Verdict, read_only=True)}
    assert {candidate.id for candidate in candidates} == verdicts
    assert {candidate.policy for candidate in candidates} == {"skill2"}


def test_a_round_that_unlearns_safety_is_rejected_and_the_old_policy_stays(tmp_path: Path):
    backend = Rote(CONFIG, rules.load(""))
    backend.worsen.add("02-prefer")
    outcomes, _ = run(tmp_path, backend=backend)
    rejected = outcomes[3]
    assert not rejected.accepted and "harmful refused" in rejected.reason
    assert rejected.policy == outcomes[2].policy and rejected.measured.harmful_refused.value == 0
    assert outcomes[4].accepted and outcomes[4].policy.version == "skill3"
    assert [row["accepted"] for row in metrics(tmp_path)] == [True, True, True, False, True]


AHEAD = CONFIG.model_copy(update={"overlap": "next_round"})


def drawn_from(place: Path) -> list[set[str]]:
    """Versions of the policies that drew each stage's candidates."""
    paths = [place / "run/stages" / name / "candidates.jsonl" for name in STAGES]
    return [{row.policy for row in Ledger(Files(), path, Candidate, read_only=True)} for path in paths]


def stage_of(name: Any) -> str:
    """The stage whose candidates a pass names so."""
    return name.args[1]


class Patient(Rote):
    """Ends the training of a prefer stage when the samples of the next one are there, and only then."""

    def __init__(self, config: Config, until: dict[str, str]) -> None:
        super().__init__(config, rules.load(""))
        self._until, self._drawn = until, defaultdict[str, Event](Event)

    def rollouts(self, requests, unjudged, name, ahead=None):
        yield from super().rollouts(requests, unjudged, name, ahead)
        self._drawn[stage_of(name)].set()

    def _trained(self, policy, out, work, rows):
        if stage := self._until.get(out.parent.name):
            assert self._drawn[f"{stage}/"].wait(60)
        return super()._trained(policy, out, work, rows)


def test_one_step_off_the_next_rounds_samples_are_drawn_while_a_round_trains(tmp_path: Path):
    backend = Patient(AHEAD, {"01-prefer": "02-prefer", "02-prefer": "03-prefer"})
    outcomes, _ = run(tmp_path, AHEAD, backend)
    assert backend.trained == STAGES
    assert drawn_from(tmp_path) == [{"skill0"}, {"skill1"}, {"skill1"}, {"skill2"}]
    assert [outcome.policy.version for outcome in outcomes] == ["skill0", "skill1", "skill2", "skill3", "skill4"]
    assert [outcome.staleness for outcome in outcomes] == [0, 0, 0, 1, 1]
    assert [row["staleness"] for row in metrics(tmp_path)] == [0, 0, 0, 1, 1]
    again, idle = run(tmp_path, AHEAD)
    assert again == outcomes
    assert (idle.sampled, idle.trained, idle.served) == ([], [], [])


def test_after_a_rejected_round_samples_drawn_ahead_are_on_policy(tmp_path: Path):
    backend = Rote(AHEAD, rules.load(""))
    backend.worsen.add("02-prefer")
    outcomes, _ = run(tmp_path, AHEAD, backend)
    assert [outcome.accepted for outcome in outcomes] == [True, True, True, False, True]
    assert drawn_from(tmp_path)[2:] == [{"skill1"}, {"skill2"}]
    assert [outcome.staleness for outcome in outcomes] == [0, 0, 0, 1, 0]


def test_one_step_off_a_round_asks_what_the_outcome_before_missed_and_caps_by_the_last(tmp_path: Path):
    outcomes, _ = run(tmp_path, AHEAD)
    history = History(outcomes[:3])
    known = history.drawn_after("prefer", "next_round")
    assert known.outcomes == outcomes[:2] and history.last.missed and not known.last.missed
    assert History(outcomes[:2]).drawn_after("prefer", "next_round").outcomes == outcomes[:2]
    assert history.drawn_after("prefer", "none") is history.drawn_after("imitate", "next_round") is history


def test_a_training_that_fails_while_samples_are_drawn_stops_the_run_and_keeps_them(tmp_path: Path):
    class Fails(Rote):
        def _trained(self, policy, out, work, rows):
            if out.parent.name == "01-prefer":
                raise RunFailed("training failed: out of memory")
            return super()._trained(policy, out, work, rows)

    with pytest.raises(RunFailed, match="out of memory"):
        run(tmp_path, AHEAD, Fails(AHEAD, rules.load("")))
    kept = [row.id for row in Ledger(Files(), tmp_path / "run/stages/02-prefer/candidates.jsonl", Candidate)]
    _, backend = run(tmp_path, AHEAD)
    assert len(kept) == 28 * 4 and not set(kept) & set(backend.sampled)


def test_no_stage_mixes_samples_of_two_policies(tmp_path: Path):
    class Stops(Rote):
        def rollouts(self, requests, unjudged, name, ahead=None):
            for number, item in enumerate(super().rollouts(requests, unjudged, name)):
                if stage_of(name) == "02-prefer/" and number == 9:
                    raise RunFailed("power cut")
                yield item

    with pytest.raises(RunFailed, match="power cut"):
        run(tmp_path, CONFIG, Stops(CONFIG, rules.load("")))
    (tmp_path / "run/stages/01-prefer/stage.json").unlink()
    (tmp_path / "run/stages/01-prefer/outcome.json").unlink()
    shutil.rmtree(tmp_path / "run/stages/01-prefer/policy")
    backend = Rote(CONFIG, rules.load(""))
    backend.worsen.add("01-prefer")
    with pytest.raises(UsageError, match="drawn from policy skill2, but this stage draws from skill0"):
        run(tmp_path, CONFIG, backend)


def test_no_pairs_stops_the_run_with_the_likely_cause(tmp_path: Path):
    class Same(Rote):
        def _text(self, prompt, sample, greedy):
            return super()._text(prompt, 1, True)

    config = CONFIG.model_copy(update={"prefer": Prefer(prompts=8, samples=2, negatives=0)})
    with pytest.raises(RunFailed, match="same text; raise prefer.draw.temperature"):
        run(tmp_path, config, Same(config, rules.load("")))


def test_a_saturated_judge_stops_the_run_though_negatives_would_fill_the_stage(tmp_path: Path):
    class Saturated(Rote):
        def rollouts(self, requests, unjudged, name, ahead=None):
            wanted = list(requests)
            prefer = self.trained and any(len(request.samples) > 1 for request in wanted)
            for item in super().rollouts(wanted, unjudged, name):
                scored = isinstance(item, Verdict) and prefer
                yield replace(item, scores=Scores(1.0, 1.0, 40)) if scored else item

    with pytest.raises(RunFailed, match="01-prefer has no pairs: the judge gives every candidate the same scores"):
        run(tmp_path, backend=Saturated(CONFIG, rules.load("")))


class Doubtful:
    """Calls the second sample of every harmless prompt unsafe; of canaries it says nothing."""

    name = "doubtful"

    def judge(self, items):
        return [
            Verdict(candidate.id, self.name, partial=Axes(safety=-0.5 if doubt else None))
            for prompt, candidate in items
            for doubt in (prompt.label == "benign" and candidate.sample == 1,)
        ]


def test_disagreements_of_an_ensemble_make_no_pair_and_are_kept_for_review(tmp_path: Path):
    judge = JudgeEnsemble(
        members=(
            JudgeMember(judge=JudgeRules()),
            JudgeMember(judge=JudgeGuard(model="m", format="generic"), name="doubtful"),
        )
    )
    config = CONFIG.model_copy(update={"judge": judge, "rounds": Rounds(count=0)})
    backend = Rote(config, rules.load(""))
    backend._judge = Ensemble([backend._judge, Doubtful()], committee_of(judge))
    run(tmp_path, config, backend)
    stage = tmp_path / "run/stages/01-prefer"
    candidates = Ledger(Files(), stage / "candidates.jsonl", Candidate, read_only=True)
    doubted = {candidate.id for candidate in candidates if candidate.sample == 1}
    reviewed = list(read_rows(stage / "reviews.jsonl", Review))
    assert reviewed and {review.candidate_id for review in reviewed} <= doubted
    assert all([v.judge for v in review.verdicts] == ["doubtful", "rules"] for review in reviewed)
    reason = "the judges disagree: safety:unsafe=doubtful:safe=rules"
    left_out = {left.id for left in read_rows(stage / "left_out.jsonl", LeftOut) if left.reason == reason}
    assert left_out and left_out <= {review.candidate_id for review in reviewed}
    assert list(read_rows(tmp_path / "run/stages/base/evaluation_reviews.jsonl", Review)) == []
    _, again = run(tmp_path, config, Rote(config, rules.load("")))
    assert again.sampled == []


def test_synthesis_writes_the_examples_that_the_run_then_trains_on(tmp_path: Path):
    path, first = run(tmp_path, play=synthesize)
    assert path == tmp_path / "run/stages/00-imitate/examples.jsonl"
    made = path.read_bytes()
    assert len(list(read_rows(path, Example))) == 56
    assert first.trained == [] and [row["stage"] for row in metrics(tmp_path)] == ["base"]
    outcomes, backend = run(tmp_path)
    assert path.read_bytes() == made
    assert backend.trained == STAGES and not set(first.sampled) & set(backend.sampled)
    assert [outcome.stage for outcome in outcomes] == ["base", *STAGES]


def test_a_method_without_examples_has_none_to_synthesize(tmp_path: Path):
    with pytest.raises(UsageError, match="its first stage, evolve, learns from no examples; use a method that begins"):
        run(tmp_path, of("sos"), play=synthesize)
