"""The steering vectors of one model: how they are extracted, and their file, which serves that model only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as pack

from erpo_ray.engines.defences.streams import Ids, states
from erpo_ray.errors import UsageError
from erpo_ray.evaluate.defences import Boundary, boundary, cosines, directions
from erpo_ray.rundir.files import Files
from erpo_ray.types import identity

_FORMAT = "erpo-scans-1"
_ARRAYS = ("directions", "transition", "harmful_cosines", "harmless_cosines")
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Vectors:
    """Of the model whose weights have the version `model`. Arrays are float32.

    directions: (layers, width), unit rows from the mean state of harmless prompts to that of harmful ones, at the last
    prompt token. transition: (layers, width), by how much that state exceeds the one at the end of an affirmative
    opener, mean over harmful prompts. harmful_cosines, harmless_cosines: (prompts, layers), the cosine of that excess
    with `transition` for other prompts. opener: ids of the opener.
    """

    model: str
    opener: tuple[int, ...]
    directions: np.ndarray
    transition: np.ndarray
    harmful_cosines: np.ndarray
    harmless_cosines: np.ndarray

    @property
    def digest(self) -> str:
        """A short hash of all of it."""
        return identity(self.model, self.opener, *(getattr(self, name).tobytes().hex() for name in _ARRAYS))

    def boundary(self, first: int) -> Boundary:
        """What divides the labels best by the mean cosine of the layers from `first` on."""
        harmful, harmless = (cosine[:, first:].mean(axis=1) for cosine in (self.harmful_cosines, self.harmless_cosines))
        return boundary(harmful.tolist(), harmless.tolist())


def extract(
    model: Any,
    version: str,
    opener: Ids,
    harmful: Sequence[Ids],
    harmless: Sequence[Ids],
    held_harmful: Sequence[Ids],
    held_harmless: Sequence[Ids],
) -> Vectors:
    """Vectors from the first two sets of prompts; the other two are scored, for a threshold."""
    ends, openers = _states(model, harmful, opener)
    transition = (ends - openers).mean(axis=0, dtype=np.float64).astype(np.float32)

    def scored(prompts: Sequence[Ids]) -> np.ndarray:
        ends, openers = _states(model, prompts, opener)
        return cosines(ends - openers, transition).astype(np.float32)

    return Vectors(
        model=version,
        opener=tuple(opener),
        directions=directions(ends, _states(model, harmless, opener)[0]),
        transition=transition,
        harmful_cosines=scored(held_harmful),
        harmless_cosines=scored(held_harmless),
    )


def save(path: Path, vectors: Vectors) -> None:
    """Write a safetensors file, whole or not at all; folders are made."""
    metadata = {"format": _FORMAT, "model": vectors.model, "opener": " ".join(map(str, vectors.opener))}
    arrays = {name: np.ascontiguousarray(getattr(vectors, name)) for name in _ARRAYS}
    files = Files()
    files.ensure(path.parent)
    files.put(path, pack(arrays, metadata=metadata))


def load(path: Path, version: str) -> Vectors:
    """Inverse of `save`. Raises UsageError when the file is another kind or belongs to other weights than `version`."""
    remedy = "remove the file or name another in scans.vectors, and the vectors are extracted anew"
    try:
        with safe_open(path, framework="numpy") as file:
            facts = file.metadata() or {}
            if facts.get("format") != _FORMAT:
                raise UsageError(f"{path}: found no steering vectors of format {_FORMAT}; {remedy}")
            if facts["model"] != version:
                raise UsageError(
                    f"{path}: holds steering vectors of model {facts['model']}, not of {version}; {remedy}"
                )
            arrays = {name: file.get_tensor(name) for name in _ARRAYS}
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path}: cannot be read as safetensors ({error}); {remedy}") from error
    return Vectors(model=version, opener=tuple(map(int, facts["opener"].split())), **arrays)


def _states(model: Any, prompts: Sequence[Ids], opener: Ids) -> tuple[np.ndarray, np.ndarray]:
    batches = [states(model, prompts[at : at + _BATCH], opener) for at in range(0, len(prompts), _BATCH)]
    return np.concatenate([end for end, _ in batches]), np.concatenate([last for _, last in batches])
