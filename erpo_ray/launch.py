"""From a configuration to a finished run, or to an evaluation: the one place where the rooms are put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from erpo_ray import preflight, rules, terminal, tracking
from erpo_ray.backend import Backend
from erpo_ray.config import Config
from erpo_ray.config.judges import JudgeEnsemble
from erpo_ray.endings import recorded
from erpo_ray.errors import GateFailed
from erpo_ray.evaluate.measures import Observer, SuiteResult
from erpo_ray.evaluate.metrics import table
from erpo_ray.evaluate.suite import Question, Suite
from erpo_ray.evaluate.turns import Renders
from erpo_ray.examine import Examiner, require_same
from erpo_ray.judging.ensemble import committee_of
from erpo_ray.labelling import label
from erpo_ray.loop import align, imitation
from erpo_ray.loop import synthesize as up_to_examples
from erpo_ray.methods import METHODS
from erpo_ray.methods.base import Renderer, Stage, Task, Teacher
from erpo_ray.preflight import Ready
from erpo_ray.progress import Progress
from erpo_ray.prompts.mixing import per_source
from erpo_ray.pulse import Pulse, Steps
from erpo_ray.rundir import RunDir
from erpo_ray.scene import Scene
from erpo_ray.traces import vocabulary
from erpo_ray.train.weights import version
from erpo_ray.types import Policy, Prompt, Request, Sampling, encode, identity

T = TypeVar("T")
Play = Callable[[Sequence[Stage], Task, Scene, RunDir], T]
"""Plays stages: `loop.align`, or a part of it."""
Boot = Callable[[Config, Steps], AbstractContextManager[Backend]]
"""Opens a backend for a configuration; it ends with the block, or stays up for the next one."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What a run has in common with others that are played by one command: checks that are done, workers that stay up.

    `adopt` is called when the run directory is open: it may put sealed stages of another run there.
    """

    ready: Ready
    boot: Boot
    adopt: Callable[[RunDir], None]


def run(config: Config, run_dir: Path, say: Callable[[str], None] = terminal.say, shared: Shared | None = None) -> int:
    """Perform or continue a run; return the exit code. Prints a line per phase and the table of all policies."""
    shared = shared or Shared(preflight.check(config, run_dir), booted, lambda run: None)
    with _begun(config, run_dir, say, shared) as begun:
        outcomes = _played(align, config, METHODS[config.method](config), begun, say, shared)
        accepted = [outcome for outcome in outcomes[1:] if outcome.accepted]
        say(table([outcome.measured for outcome in outcomes]))
        kept = outcomes[-1].evaluation
        if kept.by_source:
            say(f"\n{kept.stage} by source of prompts:")
            say(table(kept.by_source.values()))
        begun.run.status("running", phase="")
        say(f"report: {run_dir / 'report.html'}")
        if not accepted:
            raise GateFailed(
                f"no stage passed its gate ({outcomes[-1].reason}); {run_dir / 'policy'} is the model as given"
            )
        say(f"policy: {run_dir / 'policy'} (stage {accepted[-1].stage})   figures: {run_dir / 'metrics.jsonl'}")
        say(f"next: erpo chat {run_dir}")
    return 0


def synthesize(config: Config, run_dir: Path, say: Callable[[str], None] = terminal.say) -> int:
    """Begin a run, or continue it, up to the examples of its first stage; return the exit code."""
    preflight.method(config)
    imitation(stages := METHODS[config.method](config))
    shared = Shared(preflight.check(config, run_dir), booted, lambda run: None)
    with _begun(config, run_dir, say, shared) as begun:
        say(f"examples: {_played(up_to_examples, config, stages, begun, say, shared)}")
    say(f"next: erpo run with the same arguments trains on them, in {run_dir}")
    return 0


def measure(config: Config, run_dir: Path, say: Callable[[str], None], shared: Shared) -> None:
    """A run without stages: the model as given on the evaluation prompts, under `evaluate.decode`."""
    with _begun(config, run_dir, say, shared) as begun:
        (base,) = _played(align, config, (), begun, say, shared)
        say(table([base.measured]))


@dataclass(frozen=True, slots=True)
class _Begun:
    """A run that is open: `follow` keeps trackers, `draw` the page up to date."""

    run: RunDir
    follow: Callable[[], None]
    draw: Callable[[], None]


@contextmanager
def _begun(config: Config, run_dir: Path, say: Callable[[str], None], shared: Shared) -> Iterator[_Begun]:
    """The run, from its directory to the last drawing of its page, with its ending told."""
    ready = shared.ready
    with (
        RunDir.open(run_dir, config, inputs=inputs(ready), need_bytes=ready.disk_bytes, note=say) as run,
        _reported(run, say) as draw,
        recorded(run.status),
        tracking.tracking(config, run, say) as tracked,
    ):
        shared.adopt(run)
        yield _Begun(run, tracked.follow, draw)


@contextmanager
def _reported(run: RunDir, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """What draws the page of the run; it does so once more at the end, which the page tells of too."""

    def draw() -> None:
        # matplotlib takes a while to load, and there is nothing to draw before the first stage has ended.
        from erpo_ray.report import refresh

        refresh(run, say)

    try:
        yield draw
    finally:
        draw()


def _played(
    play: Play[T],
    config: Config,
    stages: Sequence[Stage],
    begun: _Begun,
    say: Callable[[str], None],
    shared: Shared,
) -> T:
    ready, run = shared.ready, begun.run
    progress, pulse = Progress(), Pulse(run.path)
    model_dir = _with_vocabulary(config, ready.model_dir, run)
    with shared.boot(config, pulse.steps(progress.steps)) as backend, pulse.watching(backend.standing):
        base = backend.policy(model_dir)
        with run.stage("base") as s:
            if not s.sealed:
                backend.expect(base)
        renderer = preflight.renderer(model_dir)  # its imports take seconds: workers start meanwhile
        categories = tuple(ready.book.categories)
        prompts = label(
            config, ready.book, lambda: backend.prompts(config.data, categories, config.seed).train, run, say
        )
        task = Task(config, base, prompts, ready.book, renderer, teacher_of(config))
        held = per_source([p for p in ready.mix.evaluate if p.label != "unknown"], config.evaluate.per_source)
        phase = pulse.phase(progress.phase)
        asked = requests(held, renderer, config)
        scene = Scene(backend, run, config, asked, phase, say, begun.follow, begun.draw)
        return play(stages, task, scene, run)


@contextmanager
def booted(config: Config, steps: Steps) -> Iterator[Backend]:
    """A backend that ends with the block."""
    backend = backend_of(config, steps)
    try:
        yield backend
    finally:
        backend.close()


def _with_vocabulary(config: Config, model_dir: Path, run: RunDir) -> Path:
    """The model to align: as given, or a copy in the run that has the tokens its traces are written with.

    Engines load weights in place, so no later policy may have a vocabulary of another size.
    """
    tokens = vocabulary(config.model.dialect)
    if not tokens:
        return model_dir
    from erpo_ray.train.vocabulary import extend

    def make(out: Path, work: Path) -> dict[str, float]:
        extend(model_dir, tokens, out)
        return {"tokens": float(len(tokens))}

    with run.stage("base") as s:
        return s.directory("policy", make)


def backend_of(config: Config, steps: Steps) -> Backend:
    """The Ray backend, or with `backend=inprocess` everything in this process (breakpoints work)."""
    if config.backend == "inprocess":
        from erpo_ray.local import InProcessBackend

        return InProcessBackend(config, steps)
    from erpo_ray.cluster.backend import RayBackend

    return RayBackend(config, steps)


def teacher_of(config: Config) -> Teacher:
    """The teacher the configuration names."""
    from erpo_ray import teachers

    if config.teacher.type == "openai":
        return teachers.OpenAITeacher(config.teacher, config.model.dialect)
    return teachers.TemplateTeacher(config.model.dialect)


def requests(prompts: Sequence[Prompt], renderer: Renderer, config: Config) -> list[Request]:
    """One greedy completion for each evaluation prompt."""
    greedy = Sampling(temperature=0.0, max_tokens=config.evaluate.max_tokens)
    return [Request(prompt, renderer.render(prompt.text), (0,), greedy) for prompt in prompts]


def evaluate(
    model: Path,
    asked: Sequence[tuple[Suite, Sequence[Question]]],
    config: Config,
    out: Path,
    say: Callable[[str], None] = terminal.say,
) -> list[SuiteResult]:
    """Evaluate a model directory on suites, each a stage directory of `out`; what is there is not done again.

    Suites of one judge that follow one another are sampled together; before another judge the workers start anew.
    """
    from erpo_ray.engines import templates

    book = rules.load(config.rules.path)
    judged = [config.model_copy(update={"judge": suite.judge or config.judge}) for suite, _ in asked]
    for judge in dict.fromkeys(each.judge for each in judged):
        preflight.judge(judge, book)
    renderer = preflight.renderer(model)
    _require_room(asked, model, config)
    preflight.gpus(config.cluster)
    policy = Policy(model.resolve(), version(model))
    told = {"policy": policy.version, "rules": identity(encode(book)), "template": templates.identity(model)}
    # What stands there is compared before anything boots.
    require_same(out, asked, config.evaluate.max_tokens)
    with RunDir.open(out, config, inputs=told, note=say, option="-o") as run, recorded(run.status):
        return _examined(policy, run, judged, asked, Observer(book, config.model.dialect, renderer.pieces), renderer)


def _examined(
    policy: Policy,
    run: RunDir,
    judged: Sequence[Config],
    asked: Sequence[tuple[Suite, Sequence[Question]]],
    observer: Observer,
    renderer: Renders,
) -> list[SuiteResult]:
    """The suites in order, each judged as its configuration says."""
    progress = Progress()
    pulse = Pulse(run.path)
    steps, phase = pulse.steps(progress.steps), pulse.phase(progress.phase)
    backend, serving = backend_of(judged[0], steps), judged[0]
    results: list[SuiteResult] = []
    try:
        for judge, together in groupby(zip(judged, asked, strict=True), key=lambda both: both[0].judge):
            if judge != serving.judge:
                backend.close()
                serving = serving.model_copy(update={"judge": judge})
                backend = backend_of(serving, steps)
            examiner = Examiner(
                run,
                backend,
                policy,
                renderer,
                observer,
                phase,
                max_failure_rate=judge.max_failure_rate,
                max_tokens=serving.evaluate.max_tokens,
                max_length=serving.model.max_length,
                committee=committee_of(judge) if isinstance(judge, JudgeEnsemble) else None,
            )
            with pulse.watching(backend.standing):
                results += examiner.examine([each for _, each in together])
        return results
    finally:
        backend.close()


def _require_room(asked: Sequence[tuple[Suite, Sequence[Question]]], model: Path, config: Config) -> None:
    """UsageError when a prompt and the longest completion of its suite do not fit into the context together."""
    for suite, questions in asked:
        room = config.model.max_length - (suite.max_tokens or config.evaluate.max_tokens)
        preflight.lengths([q.prompt for q in questions], room, model)


def inputs(ready: Ready) -> dict[str, str]:
    """What the configuration refers to, by hash: other rules or prompts make another run."""
    return {
        "rules": identity(encode(ready.book)),
        "train": identity(*map(encode, ready.mix.train)),
        "evaluate": identity(*map(encode, ready.mix.evaluate)),
        "template": ready.template,
    }
