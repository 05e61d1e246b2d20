"""What a run will cost at most, from its configuration and counts alone: samples, tokens, memory, time."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from erpo_ray.config import Config, Fit
from erpo_ray.methods import safer

GIB = 2**30

Kind = Literal["imitate", "prefer", "evolve"]

REFERENCE_PARAMETERS = 135e6
REFERENCE_CORES = 2
SAMPLED_PER_SECOND = 900.0
TRAINED_PER_SECOND = 320.0
"""Tokens a second measured with 135 million parameters on two cores (AVX-512 bf16): vLLM at batch 128, and forward and
backward under bf16 autocast. Other sizes and core counts are scaled from these in proportion."""

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
    kind: Literal["imitate", "prefer", "evolve", "evaluate"]
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
    stages: Sequence[tuple[str, Kind]],
    harmful: int,
    benign: int,
    evaluated: int,
    prompt_tokens: float,
    shape: Shape,
    cores: int,
) -> list[Cost]:
    """The phases of a run: evaluation of the base, then each stage and its evaluation.

    `stages` are names and kinds; `harmful` and `benign` the training prompts there are, `evaluated` the evaluation
    prompts, `prompt_tokens` the mean length of a rendered prompt.
    """
    speed = REFERENCE_PARAMETERS / shape.parameters * cores / REFERENCE_CORES
    out = [_evaluation("base", config, evaluated, speed)]
    negatives = 0
    for name, kind in stages:
        if kind == "imitate":
            out.append(_imitate(name, config, harmful, benign, prompt_tokens, speed))
            negatives = config.prefer.negatives
        elif kind == "evolve":
            out.append(_evolve(name, config, speed))
        else:
            out.append(_prefer(name, config, harmful, benign, prompt_tokens, speed, negatives))
            negatives = 0
        out.append(_evaluation(name, config, evaluated, speed))
    return out


def memory_gib(config: Config, shape: Shape, prompt_tokens: float) -> float:
    """Peak memory on CPU, when engine and trainer are both up."""
    engine = 2 * shape.parameters / GIB + config.cluster.kv_cache_gib + RUNTIME_GIB
    length = prompt_tokens + config.prefer.draw.max_tokens
    sequences = max(config.imitate.fit.micro_batch_size, 2 * config.prefer.fit.micro_batch_size)
    # Logits and their gradient in float32 outweigh all other activations at small sizes.
    logits = 2 * 4 * sequences * length * shape.vocabulary / GIB
    trainer = TRAINING_BYTES * shape.parameters / GIB + logits + RUNTIME_GIB
    return config.cluster.rollout_workers * engine + config.cluster.train_workers * trainer


def _imitate(name: str, config: Config, harmful: int, benign: int, prompt_tokens: float, speed: float) -> Cost:
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
    name: str, config: Config, harmful: int, benign: int, prompt_tokens: float, speed: float, negatives: int
) -> Cost:
    settings = config.prefer
    wanted = settings.explored
    completions = (min(wanted[0], harmful) + min(wanted[1], benign)) * _drawn(config)
    # Reasoning and answer of a pair are a row each.
    parts = 2 if settings.section_weights else 1
    rows = _rows(parts * settings.max_pairs + negatives, settings.fit)
    length = 2 * (prompt_tokens + settings.draw.max_tokens)
    # The reference adds a forward pass, a third of a training step.
    return _cost(name, "prefer", completions, settings.draw.max_tokens, rows, rows * length * 4 / 3, speed)


def _evolve(name: str, config: Config, speed: float) -> Cost:
    """The first generation, those of both objectives, and the crossed ones."""
    settings = config.sos
    systems = 1 + settings.children * (2 + 2 * settings.generations)
    return _cost(name, "evolve", systems * settings.prompts, settings.max_tokens, 0, 0.0, speed)


def _drawn(config: Config) -> int:
    """Completions of one prompt in a round: some methods draw on behind the beginnings of the first ones."""
    first = config.prefer.samples
    most = {
        "safer": first + (safer.STEPS - 1) * (first - 1),
        "saro": 2 * first,
        "stair": max(first, config.search.completions),
    }
    return most.get(config.method, first)


def _evaluation(name: str, config: Config, evaluated: int, speed: float) -> Cost:
    return _cost(f"{name}: evaluation", "evaluate", evaluated, config.evaluate.max_tokens, 0, 0.0, speed)


def _rows(available: int, fit: Fit) -> int:
    rows = math.ceil(available * fit.epochs)
    return min(rows, fit.max_steps * fit.batch_size) if fit.max_steps > 0 else rows


def _cost(
    name: str,
    kind: Literal["imitate", "prefer", "evolve", "evaluate"],
    completions: int,
    cap: int,
    rows: int,
    trained: float,
    speed: float,
) -> Cost:
    seconds = completions * cap / (SAMPLED_PER_SECOND * speed) + trained / (TRAINED_PER_SECOND * speed)
    started = START_SECONDS if rows or name.startswith("base") else 0.0
    return Cost(name, kind, completions, completions * cap, rows, round(trained), round(seconds + started, 1))
