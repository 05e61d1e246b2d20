"""SCANS: states of the middle layers are moved along the refusal direction, towards it or away, query by query."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from erpo_ray.config.decoding import Scans as Settings
from erpo_ray.engines.defences.streams import Steered, states
from erpo_ray.engines.defences.vectors import Vectors, extract, load, save
from erpo_ray.engines.models import cache_dir
from erpo_ray.engines.renderer import Renderer
from erpo_ray.errors import UsageError
from erpo_ray.evaluate.defences import cosines, middle, seed_anchors
from erpo_ray.types import Request, identity

_OPENER = "Sure"
"""An affirmative beginning of an answer: how the state moves when it is read tells harmful queries apart."""


class Scans:
    """Activation steering with the vectors of one model. `threshold` is the score from which a query is harmful."""

    def __init__(self, vectors: Vectors, settings: Settings) -> None:
        count = len(vectors.directions)
        self.layers = settings.layers or tuple(middle(count))
        wrong = [layer for layer in self.layers if not 0 <= layer < count]
        if wrong:
            raise UsageError(f"scans.layers: found {wrong[0]}, but the model has layers 0 to {count - 1}")
        self._vectors, self._alpha = vectors, settings.alpha
        fitted = vectors.boundary(min(self.layers)).threshold
        self.threshold = fitted if settings.threshold is None else settings.threshold

    @property
    def name(self) -> str:
        rest = identity(self.layers, self.threshold, self._vectors.digest)
        return f"scans-{self._alpha:g}-{rest[:8]}"

    def lane(self, model: Any, requests: Sequence[Request]) -> Steered:
        prompts = [request.prompt_ids for request in requests]
        sign = np.where(self.scores(model, requests) >= self.threshold, 1, -1)
        shifts = {
            layer: torch.tensor(
                self._alpha * np.outer(sign, self._vectors.directions[layer]), dtype=torch.float32, device=model.device
            )
            for layer in self.layers
        }
        return Steered(model, prompts, shifts)

    def scores(self, model: Any, requests: Sequence[Request]) -> np.ndarray:
        """Mean cosine in [-1, 1], over the layers from the first steered one on, of each query with harmful queries."""
        ends, openers = states(model, [request.prompt_ids for request in requests], self._vectors.opener)
        return cosines(ends - openers, self._vectors.transition)[:, min(self.layers) :].mean(axis=1)


def vectors_of(model: Any, renderer: Renderer, version: str, settings: Settings) -> Vectors:
    """The vectors of the model with this version: read from their file, or extracted from seeds and kept there."""
    fit, held = seed_anchors(settings.anchors)
    sets = [
        [renderer.render(prompt.text) for prompt in prompts]
        for prompts in (fit.harmful, fit.harmless, held.harmful, held.harmless)
    ]
    opener = renderer.encode_completion(_OPENER)[:-1]
    # Other prompts or another chat template give other ids, so vectors in the cache are never stale.
    kept = cache_dir() / "scans" / f"{version}-{identity(opener, sets)}.safetensors"
    path = Path(settings.vectors).expanduser() if settings.vectors else kept
    if path.exists():
        return load(path, version)
    vectors = extract(model, version, opener, *sets)
    save(path, vectors)
    return vectors
