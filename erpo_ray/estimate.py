"""What a run will cost at most, from its configuration and counts alone: samples, tokens, memory, time."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from erpo_ray.config import Config
from erpo_ray.config.training import Fit
from erpo_ray.methods import safer
from erpo_ray.types import StageKind

GIB = 2**30

REFERENCE_PARAMETERS = 135e6
REFERENCE_CORES = 2


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens a second with 135 million parameters on two cores: vLLM at batch 128, and forward and backward.

    Other sizes and core counts are scaled from these in proportion. `weight_bytes` is what a parameter takes that the
    engine serves.
    """

    sampled: float
    trained: float
    weight_bytes: int

    def times(self, factor: float) -> Rates:
        return replace(self, sampled=self.sampled * factor, trained=self.trained * factor)


BF16 = Rates(900.0, 320.0, weight_bytes=2)
"""Measured with AVX-512 BF16, trained under autocast."""
FLOAT32 = Rates(190.0, 96.0, weight_bytes=4)
"""Measured with AVX2, which has no bfloat16."""

START_SECONDS = 30.0
"""Start of an engine or of a trainer."""

RUNTIME_GIB = 1.0
"""Memory of a process that has loaded torch with vLLM or TRL, without model."""

INTENT_TOKENS = 40
"""Tokens up to the intent, at most: the gist has sixteen words."""

TRAINING_BYTES = 16
"""Bytes a parameter while training: float32 weights, gradients and two Adam moments."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model sets its cost."""

    parameters: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class Cost:
    """One phase, each figure at most: completions sampled and their tokens, rows and tokens trained on, seconds."""

    name: str
    kind: StageKind | Literal["evaluate"]
    completions: int
    sampled_tokens: int
    rows: int
    trained_tokens: int
    seconds: float


def shape(model_dir: Path) -> Shape:
    """Parameter count from the headers of the safetensors files, vocabulary from config.json."""
    parameters = 0
    for path in model_dir.glob("*.safetensors"):
        with path.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        parameters += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return Shape(parameters, json.loads((model_dir / "config.json").read_text())["vocab_size"])


def costs(
    config: Config,
    stages: Sequence[tuple[str, StageKind]],
    harmful: int,
    benign: int,
    evaluated: int,
    prompt_tokens: float,
    shape: Shape,
    cores: int,
    rates: Rates = BF16,
) -> list[Cost]:
    """The phases of a run: evaluation of the base, then each stage and its evaluation.

    `stages` are names and kinds; `harmful` and `benign` the training prompts there are, `evaluated` the evaluation
    prompts, `prompt_tokens` the mean length of a rendered prompt, `rates` what the machine does.
    """
    speed = rates.times(REFERENCE_PARAMETERS / shape.parameters * cores / REFERENCE_CORES)
    out = [_evaluation("base", config, evaluated, speed)]
    negatives = 0
    for name, kind in stages:
        if kind == "imitate":
            out.append(_imitate(name, config, harmful, benign, prompt_tokens, speed))
            negatives = config.prefer.negatives
        elif kind == "reinforce":
            out.append(_reinforce(name, config, harmful, benign, prompt_tokens, speed))
        elif kind == "evolve":
            out.append(_evolve(name, config, speed))
        else:
            out.append(_prefer(name, config, harmful, benign, prompt_tokens, speed, negatives))
            negatives = 0
        out.append(_evaluation(name, config, evaluated, speed))
    return out


def memory_gib(config: Config, shape: Shape, prompt_tokens: float, rates: Rates = BF16) -> float:
    """Peak memory on CPU, when engine and trainer are both up."""
    engine = rates.weight_bytes * shape.parameters / GIB + config.cluster.kv_cache_gib + RUNTIME_GIB
    length = prompt_tokens + config.prefer.draw.max_tokens
    sequences = max(config.imitate.fit.micro_batch_size, sides(config) * config.prefer.fit.micro_batch_size)
    # Logits and their gradient in float32 outweigh all other activations at small sizes.
    logits = 2 * 4 * sequences * length * shape.vocabulary / GIB
    trainer = TRAINING_BYTES * shape.parameters / GIB + logits + RUNTIME_GIB
    return config.cluster.rollout_workers * engine + config.cluster.train_workers * trainer


def sides(config: Config) -> int:
    """Completions of a row in the widest of the stages that fit as `prefer` does: a pair's, or all of a prompt."""
    reinforced = config.method == "grpo" or config.rounds.kind == "reinforce"
    return config.prefer.samples if reinforced else 2


def _imitate(name: str, config: Config, harmful: int, benign: int, prompt_tokens: float, speed: Rates) -> Cost:
    settings = config.imitate
    refused = min(harmful, settings.harmful or harmful)
    answered = min(benign, settings.benign or benign)
    intents = min(settings.harmful_intents, harmful - refused) + min(settings.benign_intents, benign - answered)
    longest = settings.draw.max_tokens
    before = settings.trace_cap if settings.traces else 0
    asked = answered
    turns = 0
    if config.method == "derta":
        # Harmful prompts are sampled too; a refusal stands behind an answer, and the turns are rows of their own.
        asked, before = answered + refused, longest
        turns = refused * max(1, round(config.derta.positions * longest))
    available = refused + answered + intents + turns
    rows = _rows(available, settings.fit)
    beyond = ((refused + answered) * (before + longest) + intents * INTENT_TOKENS + turns * longest) / available
    completions = asked * settings.answers
    return _cost(name, "imitate", completions, longest, rows, rows * (prompt_tokens + beyond), speed)


def _prefer(
    name: str, config: Config, harmful: int, benign: int, prompt_tokens: float, speed: Rates, negatives: int
) -> Cost:
    settings = config.prefer
    completions = _explored(config, harmful, benign) * _drawn(config)
    # Reasoning and answer of a pair are a row each.
    parts = 2 if settings.section_weights else 1
    rows = _rows(parts * settings.max_pairs + negatives, settings.fit)
    length = 2 * (prompt_tokens + settings.draw.max_tokens)
    # The reference adds a forward pass, a third of a training step.
    return _cost(name, "prefer", completions, settings.draw.max_tokens, rows, rows * length * 4 / 3, speed)


def _reinforce(name: str, config: Config, harmful: int, benign: int, prompt_tokens: float, speed: Rates) -> Cost:
    settings, prompts = config.prefer, _explored(config, harmful, benign)
    rows = _rows(prompts, settings.fit)
    length = prompt_tokens + settings.samples * settings.draw.max_tokens
    # The policy as it was is scored once, a third of a training step; so is a reference of another version.
    other = config.reinforce.kl > 0 and config.reinforce.reference != "previous"
    trained = (rows + prompts * (2 if other else 1) / 3) * length
    return _cost(name, "reinforce", prompts * settings.samples, settings.draw.max_tokens, rows, trained, speed)


def _explored(config: Config, harmful: int, benign: int) -> int:
    wanted = config.prefer.explored
    return min(wanted[0], harmful) + min(wanted[1], benign)


def _evolve(name: str, config: Config, speed: Rates) -> Cost:
    """The first generation, those of both objectives, and the crossed ones; with `policy` each is written first."""
    settings = config.sos
    children = settings.children * (2 + 2 * settings.generations)
    tried = _cost(name, "evolve", (1 + children) * settings.prompts, settings.max_tokens, 0, 0.0, speed)
    if settings.mutate == "bank":
        return tried
    written = _cost(name, "evolve", children, settings.rewrite.max_tokens, 0, 0.0, speed)
    return replace(
        tried,
        completions=tried.completions + written.completions,
        sampled_tokens=tried.sampled_tokens + written.sampled_tokens,
        seconds=tried.seconds + written.seconds,
    )


def _drawn(config: Config) -> int:
    """Completions of one prompt in a round: some methods draw on behind the beginnings of the first ones."""
    first = config.prefer.samples
    most = {
        "safer": first + (safer.STEPS - 1) * (first - 1),
        "saro": 2 * first,
        "stair": max(first, config.search.completions),
    }
    return most.get(config.method, first)


def _evaluation(name: str, config: Config, evaluated: int, speed: Rates) -> Cost:
    return _cost(f"{name}: evaluation", "evaluate", evaluated, config.evaluate.max_tokens, 0, 0.0, speed)


def _rows(available: int, fit: Fit) -> int:
    rows = math.ceil(available * fit.epochs)
    return min(rows, fit.max_steps * fit.batch_size) if fit.max_steps > 0 else rows


def _cost(
    name: str,
    kind: StageKind | Literal["evaluate"],
    completions: int,
    cap: int,
    rows: int,
    trained: float,
    speed: Rates,
) -> Cost:
    seconds = completions * cap / speed.sampled + trained / speed.trained
    started = START_SECONDS if rows or name.startswith("base") else 0.0
    return Cost(name, kind, completions, completions * cap, rows, round(trained), round(seconds + started, 1))
