"""Single stages as `erpo run` plays them, on workers that outlive a run, and what the run directory says of a round."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erpo_ray import launch, settings
from erpo_ray.backend import Backend
from erpo_ray.config import Config
from erpo_ray.errors import GateFailed
from erpo_ray.methods import METHODS, erpo
from erpo_ray.methods.base import Stage
from erpo_ray.progress import Progress
from erpo_ray.rundir.lines import ledger_rows, read_rows
from erpo_ray.types import Candidate, Evaluation, Pair, Prompt

DEMO = Path(__file__).parents[1] / "configs" / "demo.yaml"
GATED = 2
"""Evaluation prompts of each label and source: what the gate says is not measured here."""


@dataclass(frozen=True, slots=True)
class Round:
    """A prefer round. `begun` and `ended` are in seconds of the epoch: from the end of what came before it until its
    model is on disk, which leaves the evaluation at its gate out. `steps` are optimiser steps."""

    begun: float
    ended: float
    pairs: int
    steps: int
    policy: Path

    @property
    def seconds(self) -> float:
        return self.ended - self.begun


def only(kind: str) -> Callable[[Config], tuple[Stage, ...]]:
    """The first stage of this kind of the demo's method: none where there is no such kind."""
    return lambda config: tuple(stage for stage in erpo.stages(config) if stage.kind == kind)[:1]


def demo(start: Path, prompts: int | None = None, held: int = GATED) -> Config:
    """The demo from the model in `start`; with fewer prompts a round has fewer pairs in proportion."""
    config = settings.load(DEMO, [f"model.path={start}", f"evaluate.per_source={held}"])
    if prompts is None:
        return config
    pairs = max(1, config.prefer.max_pairs * prompts // config.prefer.prompts)
    return config.model_copy(
        update={"prefer": config.prefer.model_copy(update={"prompts": prompts, "max_pairs": pairs})}
    )


def play(config: Config, stage: str, run_dir: Path) -> Path:
    """`erpo run` with one stage alone: `imitate`, `prefer`, or `base`, the evaluation of the model as given.

    Returns the directory of the stage.
    """
    METHODS["bench"] = only(stage)
    try:
        launch.run(config.model_copy(update={"method": "bench"}), run_dir, say=lambda line: None)
    except GateFailed:
        pass  # it is what the stage takes that counts
    return run_dir / "stages" / (stage if stage == "base" else f"00-{stage}")


def evaluated(stage: Path) -> Evaluation:
    """The figures of a stage."""
    return next(read_rows(stage / "evaluation.json", Evaluation))


def round_of(stage: Path) -> Round:
    """What became of a prefer stage that is the only one of its run."""
    facts = next(read_rows(stage / "policy_facts.json", dict[str, float]))
    pairs = sum(1 for _ in read_rows(stage / "pairs.jsonl", Pair))
    begun, ended = stage.parent / "base" / "stage.json", stage / "policy_facts.json"
    return Round(begun.stat().st_mtime, ended.stat().st_mtime, pairs, int(facts["steps"]), stage / "policy")


def explored(stage: Path) -> list[Prompt]:
    """The prompts that a round asked."""
    asked = {candidate.prompt_id for candidate in ledger_rows(stage / "candidates.jsonl", Candidate)}
    prompts = read_rows(stage.parent / "labels" / "prompts.jsonl", Prompt)
    return [prompt for prompt in prompts if prompt.id in asked]


@contextmanager
def standing(config: Config) -> Iterator[Backend]:
    """The backend of every run inside: its workers outlive each of them."""
    make = launch.backend_of
    backend: Any = make(config, Progress().steps)
    end, backend.close = backend.close, lambda: None
    launch.backend_of = lambda *_: backend
    try:
        yield backend
    finally:
        launch.backend_of = make
        end()
