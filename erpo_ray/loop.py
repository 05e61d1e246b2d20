"""The loop: a method's stages over a backend and a run directory. No Ray, no torch, no method in here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from erpo_ray.errors import UsageError
from erpo_ray.methods.base import History, Imitate, Outcome, Stage, Task
from erpo_ray.rundir import RunDir
from erpo_ray.scene import Scene
from erpo_ray.types import Advantage, Example, Pair


def align(stages: Sequence[Stage], task: Task, scene: Scene, run: RunDir) -> tuple[Outcome, ...]:
    """Play the stages in order; return what became of each, the base model first.

    Every artefact is made once and read ever after, so the same call after a crash goes on where it stopped.
    """
    with run.stage("base") as s:
        history = History((scene.base(s, task),))
    named = [(f"{number:02d}-{stage.name}", stage) for number, stage in enumerate(stages)]
    for number, (name, stage) in enumerate(named, 1):
        if (stage.kind == "prefer" or stage.kind == "reinforce") and stage.over(history):
            break
        with run.stage(name) as s:
            groups = scene.explorer(s, stage, task, history)
            negatives = history.negatives
            if stage.kind == "imitate":
                examples = scene.rows(s, "examples.jsonl", Example, groups, partial(stage.examples, task))
                negatives = s.once("negatives.jsonl", Pair, partial(stage.negatives, task, examples))
                policy = scene.imitate(s, stage, history)
            elif stage.kind == "evolve":
                policy, scene = scene.instruct(s, stage, task, history, groups)
            elif stage.kind == "prefer":
                scene.rows(s, "pairs.jsonl", Pair, groups, partial(stage.pairs, task, history))
                meanwhile = partial(scene.draw_ahead, s, task, history, *named[number : number + 1])
                policy = scene.prefer(s, stage, history, meanwhile)
            else:
                scene.rows(s, "advantages.jsonl", Advantage, groups, partial(stage.advantages, task, history))
                policy = scene.reinforce(s, stage, history)
            outcome = scene.judge(s, stage, history, policy, groups)
        history = History((*history.outcomes, outcome), negatives)
    return history.outcomes


def synthesize(stages: Sequence[Stage], task: Task, scene: Scene, run: RunDir) -> Path:
    """Play the run up to the examples of its first stage; their file. `align` goes on from there."""
    first = imitation(stages)
    with run.stage("base") as s:
        history = History((scene.base(s, task),))
    with run.stage(f"00-{first.name}") as s:
        groups = scene.explorer(s, first, task, history)
        scene.rows(s, "examples.jsonl", Example, groups, partial(first.examples, task))
        return s.path / "examples.jsonl"


def imitation(stages: Sequence[Stage]) -> Imitate:
    """The first stage. UsageError when it does not learn from examples."""
    first = stages[0]
    if first.kind != "imitate":
        raise UsageError(
            f"key `method`: its first stage, {first.name}, learns from no examples; use a method that begins with "
            "them, as method=sft or method=erpo"
        )
    return first
