"""What a run is expected to cost, phase by phase: `estimate` asked about the prompts and the model that were found."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from statistics import fmean

from erpo_ray import environment, estimate, preflight
from erpo_ray.config import Config
from erpo_ray.estimate import Cost, Rates, Shape
from erpo_ray.methods import METHODS
from erpo_ray.preflight import Ready
from erpo_ray.prompts.mixing import per_source
from erpo_ray.types import StageKind

Phase = tuple[str, StageKind]

SAMPLE = 200
"""Prompts whose length is measured."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """The phases of a run, each figure at most; beside them the mean length of a rendered prompt in tokens."""

    costs: list[Cost]
    prompt_tokens: float
    shape: Shape
    rates: Rates


def forecast(config: Config, ready: Ready) -> Forecast:
    """Of the method that the configuration names. Boots nothing; the tokenizer is loaded."""
    renderer = preflight.renderer(ready.model_dir)
    train, evaluate = ready.mix.train, per_source(ready.mix.evaluate, config.evaluate.per_source)
    labels = Counter(prompt.label for prompt in train)
    mean = fmean(len(renderer.render(prompt.text)) for prompt in train[:SAMPLE])
    shape = estimate.shape(ready.model_dir)
    played = METHODS[config.method](config)
    stages: list[Phase] = [(f"{number:02d}-{stage.name}", stage.kind) for number, stage in enumerate(played)]
    cores, rates = os.cpu_count() or 1, estimate.BF16 if environment.bf16(gpu=False) else estimate.FLOAT32
    costs = estimate.costs(
        config, stages, labels["harmful"], labels["benign"], len(evaluate), mean, shape, cores, rates
    )
    return Forecast(costs, mean, shape, rates)
