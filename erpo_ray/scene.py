"""The steps of a stage on a stage directory: explore, collect rows, train, evaluate and judge at the gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from threading import Thread
from typing import TypeVar

from erpo_ray import stopping, usage
from erpo_ray.backend import Ahead, Backend
from erpo_ray.config import Config
from erpo_ray.config.judges import JudgeEnsemble
from erpo_ray.errors import Interrupted, RunFailed, UsageError
from erpo_ray.evaluate.gate import accept
from erpo_ray.evaluate.metrics import evaluation, row
from erpo_ray.explore import Phase, explore, prove_judge
from erpo_ray.faults import saturated, why_no_pairs
from erpo_ray.judging.ensemble import Review, committee_of, opinions, reviews
from erpo_ray.methods.base import Evolve, History, Imitate, Outcome, Prefer, Reinforce, Stage, Task, Tried
from erpo_ray.outcomes import outcome_of, shortens
from erpo_ray.rundir import RunDir, StageDir
from erpo_ray.rundir.files import working
from erpo_ray.rundir.lines import plain_rows
from erpo_ray.teachers import OpenAITeacher
from erpo_ray.telemetry import STEPS, Step
from erpo_ray.types import Candidate, Evaluation, Group, LeftOut, Policy, Prompt, Request, Verdict

T = TypeVar("T")
Groups = Callable[[], Sequence[Group]]

KEPT = "reference"
"""Folder of the run directory in which trainers keep log-probabilities under references."""


@dataclass(frozen=True)
class Scene:
    """What the loop's steps need besides the method: backend, run directory, evaluation prompts, settings."""

    backend: Backend
    run: RunDir
    config: Config
    evaluation: Sequence[Request]
    phase: Phase
    say: Callable[[str], None]
    follow: Callable[[], None] = lambda: None
    """Called when metrics.jsonl may have grown: trackers draw level with it."""
    show: Callable[[], None] = lambda: None
    """Called when there is more to see: the page of the run is drawn anew.

    Only after something new has become whole, and last of all: a start after one that failed in here does not come by
    again, so that a fault of the page costs a run no more than the start."""

    def base(self, s: StageDir, task: Task) -> Outcome:
        """The unaligned model's figures: what every stage is compared with. Keeps the prompts that all are asked.

        UsageError when an earlier start measured other weights: stages would train from these under the old name.
        """
        if not s.sealed:
            s.once("prompts.jsonl", Prompt, lambda: [request.prompt for request in self.evaluation])
        figures = self._measure(s, task.base)
        outcome = self._close(
            s, lambda: Outcome("base", "base", True, "the model as given", task.base, figures, figures, {}, ())
        )
        if outcome.policy.version != task.base.version:
            raise UsageError(
                f"{s.path}: begun with model {outcome.policy.version}, but {task.base.path} is now "
                f"{task.base.version}; put the model back that the run began with, or use another --run-dir"
            )
        return outcome

    def explorer(self, s: StageDir, stage: Stage, task: Task, history: History) -> Groups:
        """The stage's groups, sampled and judged when first asked for; a stage that is done never asks.

        A teacher behind an endpoint keeps its replies in the stage from here on.
        """
        if isinstance(task.teacher, OpenAITeacher):
            task.teacher.keep(s)

        @cache
        def groups() -> Sequence[Group]:
            with self.run.timed(s.path.name, "rollouts"):
                known, ahead = history.drawn_after(stage.kind, self.config.overlap), self._ahead(s, stage, history)
                found = self._gathered(s, stage, task, known, ahead)
            self._review(s, found)
            return found

        return groups

    def rows(
        self,
        s: StageDir,
        name: str,
        kind: type[T],
        groups: Groups,
        make: Callable[[Sequence[Group]], tuple[list[T], list[LeftOut]]],
    ) -> Sequence[T]:
        """Rows that a stage trains on, and beside them `left_out.jsonl` with a reason for all that was not used."""

        def keep() -> list[T]:
            rows, left_out = make(groups())
            # Off-policy negatives must not hide a judge that tells nothing apart.
            if not rows or saturated(groups()):
                raise RunFailed(f"stage {s.path.name} has no {Path(name).stem}: {why_no_pairs(groups())}")
            s.once("left_out.jsonl", LeftOut, lambda: left_out)
            return rows

        there = s.files.exists(s.path / name)
        found = s.once(name, kind, keep)
        if not there:
            self.show()
        return found

    def imitate(self, s: StageDir, stage: Imitate, history: History) -> Policy:
        """Supervised training on the stage's examples."""
        start = history.last.policy
        examples = s.path / "examples.jsonl"
        return self._train(s, lambda out, work: self.backend.imitate(start, examples, stage.training, out, work))

    def draw_ahead(self, s: StageDir, task: Task, history: History, following: tuple[str, Stage] | None = None) -> None:
        """With `overlap=next_round`, the samples of the prefer stage that follows on `s`, drawn before `s` has trained.

        They are read when that stage begins; what a crash cuts off is drawn then.
        """
        if self.config.overlap == "none" or following is None or following[1].kind != "prefer":
            return
        name, stage = following
        with self.run.stage(name) as ahead, self.run.timed(name, "rollouts"):
            self._gathered(ahead, stage, task, history)
        self.run.status("running", stage=s.path.name, phase="training")

    def prefer(self, s: StageDir, stage: Prefer, history: History, meanwhile: Callable[[], None]) -> Policy:
        """Preference training on the stage's pairs; with an overlap, `meanwhile` is done as it goes on."""
        start, pairs = history.last.policy, s.path / "pairs.jsonl"
        reference, kept = history.reference(stage.objective.reference), self.run.path / KEPT

        def train(out: Path, work: Path) -> dict[str, float]:
            return self.backend.prefer(start, reference, pairs, stage.objective, stage.training, out, work, kept)

        if self.config.overlap == "none":
            return self._train(s, train)
        return self._train(s, lambda out, work: _beside(partial(train, out, work), meanwhile))

    def reinforce(self, s: StageDir, stage: Reinforce, history: History) -> Policy:
        """Policy gradient on the stage's advantages, whose samples are from the policy that it starts from."""
        start, rows = history.last.policy, s.path / "advantages.jsonl"
        reference, kept = history.reference(stage.objective.reference), self.run.path / KEPT

        def train(out: Path, work: Path) -> dict[str, float]:
            return self.backend.reinforce(start, reference, rows, stage.objective, stage.training, out, work, kept)

        return self._train(s, train)

    def instruct(
        self, s: StageDir, stage: Evolve, task: Task, history: History, groups: Groups
    ) -> tuple[Policy, Scene]:
        """The last policy under the system prompt that the stage finds, and the scene in which it is asked that way."""
        system = s.value("system_prompt.json", str, lambda: stage.best(task, groups()))
        if not s.sealed:
            s.once("tried.jsonl", Tried, lambda: stage.tried(task, groups()))
        start = history.last.policy
        path = s.directory("policy", lambda out, work: self.backend.instruct(start, system, out))
        renderer = task.renderer.under(system)
        asked = [replace(request, prompt_ids=renderer.render(request.prompt.text)) for request in self.evaluation]
        return self.backend.policy(path), replace(self, evaluation=asked)

    def judge(self, s: StageDir, stage: Stage, history: History, policy: Policy, groups: Groups) -> Outcome:
        """Evaluate the new policy and let the gate choose between it and the old one."""
        measured = self._measure(s, policy)

        def decide() -> Outcome:
            last = history.last
            decision = accept(last.evaluation, measured, self.config.gate, stage.kind, shorter=shortens(stage))
            kept = (policy, measured) if decision.accepted else (last.policy, last.evaluation)
            found = outcome_of(s.path.name, stage, decision, kept, measured, history, groups(), self.config)
            drawn = history.drawn_after(stage.kind, self.config.overlap).last.policy
            return replace(found, staleness=int(drawn.version != last.policy.version))

        return self._close(s, decide)

    def _train(self, s: StageDir, train: Callable[[Path, Path], dict[str, float]]) -> Policy:
        def make(out: Path, work: Path) -> dict[str, float]:
            with self.run.timed(s.path.name, "training"):
                facts = train(out, work)
            s.put("training.jsonl", Step, plain_rows(work / STEPS, Step))
            return facts

        # A first signal stops it behind a checkpoint, or finds it done: then what it made is kept.
        with stopping.patiently():
            path = s.directory("policy", make)
        return self.backend.policy(path)

    def _ahead(self, s: StageDir, stage: Stage, history: History) -> Ahead | None:
        if stage.kind == "evolve":
            return None
        reference: Policy | None = None
        if stage.kind == "prefer" and stage.objective.reference != "none":
            reference = history.reference(stage.objective.reference)
        if stage.kind == "reinforce":
            reference = history.last.policy
        by_token = stage.kind == "reinforce"
        return Ahead(stage.training, working(s.path / "policy"), self.run.path / KEPT, reference, by_token)

    def _gathered(
        self, s: StageDir, stage: Stage, task: Task, known: History, ahead: Ahead | None = None
    ) -> Sequence[Group]:
        """What the stage asks for, and what it asks for behind that."""
        requests, policy = stage.requests(task, known), known.last.policy
        found = self._explore(s, requests, policy, ahead=ahead)
        while stage.kind != "imitate" and (more := stage.follow(task, known, found)):
            requests = [*requests, *more]
            found = self._explore(s, requests, policy, ahead=ahead)
        return found

    def _explore(
        self, s: StageDir, requests: Sequence[Request], policy: Policy, prefix: str = "", ahead: Ahead | None = None
    ) -> Sequence[Group]:
        prove_judge(s, self.backend, self.run.id)
        limit = self.config.judge.max_failure_rate
        return explore(s, requests, policy, self.backend, self.run.id, self.phase, limit, prefix, ahead)

    def _review(self, s: StageDir, groups: Sequence[Group], prefix: str = "") -> None:
        """Of an ensemble, what a person should look at."""
        judge = self.config.judge
        if isinstance(judge, JudgeEnsemble):
            s.once(f"{prefix}reviews.jsonl", Review, lambda: reviews(opinions(_judged(groups)), committee_of(judge)))

    def _measure(self, s: StageDir, policy: Policy) -> Evaluation:
        def measure() -> Evaluation:
            with self.run.timed(s.path.name, "evaluation"):
                groups = self._explore(s, self.evaluation, policy, prefix="evaluation_")
            self._review(s, groups, "evaluation_")
            return evaluation(s.path.name, policy.version, groups)

        return s.value("evaluation.json", Evaluation, measure)

    def _close(self, s: StageDir, make: Callable[[], Outcome]) -> Outcome:
        """Keep the outcome, seal the stage and tell the world: metrics row, one line, the page."""
        root = self.run.path
        kept = s.value("outcome.json", Outcome, lambda: _led(make(), lambda path: _from(root, path)))
        outcome = _led(kept, lambda path: root / path)
        closing = not s.sealed
        if closing:
            s.seal({"accepted": outcome.accepted, "reason": outcome.reason, "policy": outcome.policy.version})
            stale = "; its samples were drawn from the policy of the round before" if outcome.staleness else ""
            self.say(f"{outcome.stage}: {outcome.reason}{stale}")
        told = {"accepted": outcome.accepted, "staleness": outcome.staleness}
        self.run.append_metric({**row(outcome.measured), **told})
        self.follow()
        if closing:
            self._tend(s.path.name)
            self.show()
        return outcome

    def _tend(self, stage: str) -> None:
        """Keep what every actor holds of its machine; the backend replaces workers that have grown too much."""
        upkeep = self.backend.upkeep()
        self.run.tell_actors(actors := usage.rows(stage, upkeep))
        for one in actors:
            if one.replaced:
                self.say(f"{one.actor} had grown to {one.rss / usage.GIB:.1f} GiB and is replaced")


def _beside(work: Callable[[], T], meanwhile: Callable[[], None]) -> T:
    """What `work` returns: it goes on in another thread while `meanwhile` is done in this one.

    Asked to stop, both of them end as they can.
    """
    found: Future[T] = Future()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as error:
            found.set_exception(error)

    # Not a pool: it would wait for the end of a training that nobody wants any more.
    Thread(target=run, daemon=True).start()
    try:
        meanwhile()
    except Interrupted:
        found.result()
        raise
    return found.result()


def _judged(groups: Sequence[Group]) -> Iterator[tuple[Candidate, Verdict]]:
    for group in groups:
        yield from zip(group.candidates, group.verdicts, strict=True)


def _led(outcome: Outcome, lead: Callable[[Path], Path]) -> Outcome:
    return replace(outcome, policy=replace(outcome.policy, path=lead(outcome.policy.path)))


def _from(root: Path, path: Path) -> Path:
    """Relative where it lies in the run, so that the run directory can be moved."""
    path, root = path.resolve(), root.resolve()
    return path.relative_to(root) if path.is_relative_to(root) else path
