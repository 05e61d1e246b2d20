"""Decoding-time defences as formulas and choices, without a model: ROSE's contrast, SCANS's directions and threshold.

ROSE: Zhong et al., arXiv 2402.11889. SCANS: Cao et al., arXiv 2408.11491. Models are in `engines/defences`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from erpo_ray import rules
from erpo_ray.config import Source
from erpo_ray.errors import UsageError
from erpo_ray.prompts import loaders
from erpo_ray.prompts.mixing import choose_balanced
from erpo_ray.types import Prompt


def contrast(plain: Any, reverse: Any, alpha: float) -> Any:
    """Logits of log p(y | x, s+) - alpha log p(y | x, s-): arrays (of numpy or torch) of shape (rows, vocabulary).

    From logits instead of log-probabilities the result differs by a constant a row, which no argmax or softmax sees,
    and alpha 0 gives the plain logits bit for bit. As published there is no plausibility cut.
    """
    return plain - alpha * reverse


def middle(layers: int) -> range:
    """The middle third of a model's decoder layers, at least one: 10 to 19 of 32, as published."""
    third = max(1, layers // 3)
    return range(layers // 3, layers // 3 + third)


def directions(harmful: np.ndarray, harmless: np.ndarray) -> np.ndarray:
    """Refusal direction of each layer: unit difference of mean states, (layers, width) of (prompts, layers, width).

    A layer in which the means are the same has no direction: its row is 0.
    """
    difference = harmful.mean(axis=0, dtype=np.float64) - harmless.mean(axis=0, dtype=np.float64)
    length = np.linalg.norm(difference, axis=-1, keepdims=True)
    return (difference / np.where(length == 0, 1, length)).astype(np.float32)


def cosines(states: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Cosine in [-1, 1] of each state with its layer's reference: (prompts, layers); 0 where either is 0."""
    states, reference = states.astype(np.float64), reference.astype(np.float64)
    lengths = np.linalg.norm(states, axis=-1) * np.linalg.norm(reference, axis=-1)
    return np.einsum("plw,lw->pl", states, reference) / np.where(lengths == 0, 1, lengths)


@dataclass(frozen=True, slots=True)
class Boundary:
    """A query counts as harmful from `threshold` on. `accuracy` is balanced over both labels, where it was fitted."""

    threshold: float
    accuracy: float


def boundary(harmful: Sequence[float], harmless: Sequence[float]) -> Boundary:
    """The threshold that divides the scores of both labels best; the lowest of several as good."""
    scores = sorted({*harmful, *harmless})
    # Half way between neighbours; never the lower one itself, which half way may round to.
    cuts = [scores[0], *(max((low + high) / 2, math.nextafter(low, high)) for low, high in pairwise(scores))]
    found = [Boundary(cut, _accuracy(harmful, harmless, cut)) for cut in cuts]
    return max(found, key=lambda one: one.accuracy)


def _accuracy(harmful: Sequence[float], harmless: Sequence[float], cut: float) -> float:
    caught = sum(score >= cut for score in harmful) / len(harmful)
    passed = sum(score < cut for score in harmless) / len(harmless)
    return (caught + passed) / 2


@dataclass(frozen=True, slots=True)
class Anchors:
    """Prompts of both labels, as many of each."""

    harmful: tuple[Prompt, ...]
    harmless: tuple[Prompt, ...]


def seed_anchors(count: int) -> tuple[Anchors, Anchors]:
    """`count` embedded training prompts of each label for the directions, and others for the threshold.

    Even over the risk categories. Harmless ones are mostly the twins of harmful ones: what sets the two apart is
    intent, hardly the topic. Raises UsageError when there are not as many.
    """
    categories = tuple(rules.load().categories)
    sources = [Source(path=name, split="train") for name in ("seeds", "everyday")]
    prompts = [prompt for source in sources for prompt in loaders.read(source, "", categories)]
    chosen = choose_balanced(prompts, 2 * count, 2 * count, seed=0)
    harmful = tuple(prompt for prompt in chosen if prompt.label == "harmful")
    harmless = tuple(prompt for prompt in chosen if prompt.label == "benign")
    least = min(len(harmful), len(harmless))
    if least < 2 * count:
        raise UsageError(f"scans.anchors: found {count}, but the seeds hold prompts for {least // 2}; use fewer")
    return Anchors(harmful[:count], harmless[:count]), Anchors(harmful[count:], harmless[count:])
