"""M_cls: which prompts are labelled, by whom, what becomes of a doubtful label, and that it is done once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from judged import prompt

from erpo_ray import rules
from erpo_ray.config import Config
from erpo_ray.engines import embeddings
from erpo_ray.labelling import Labelling, label
from erpo_ray.rules import GENERAL
from erpo_ray.rundir import RunDir, read_rows
from erpo_ray.types import Prompt

BOOK = rules.load()
PROMPTS = [
    prompt("given", "harmful", category="fraud"),
    prompt("sure", "harmful", category=""),
    prompt("doubtful", "harmful", category=""),
    prompt("kind", "benign", category=""),
]
GUESSES = {"sure": ("drugs", 0.9), "doubtful": ("drugs", 0.3), "kind": ("privacy", 0.8)}


class Guesser:
    """A category model that guesses by rote; `asked` has what it was asked, `known` the prompts it learnt from."""

    accuracy, n = 0.75, 123

    def __init__(self, known: Sequence[Prompt]) -> None:
        self.known, self.asked = known, list[tuple[list[str], str]]()

    def predict(self, texts: Sequence[str], without: str) -> list[tuple[str, float]]:
        self.asked.append((list(texts), without))
        return [GUESSES[BY_TEXT[text]] for text in texts]


BY_TEXT = {each.text: each.id for each in PROMPTS}


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[Guesser]:
    made: list[Guesser] = []

    def fit(embedder: object, known: Sequence[Prompt], book: object) -> Guesser:
        made.append(Guesser(known))
        return made[-1]

    monkeypatch.setattr(embeddings, "Embedder", lambda: None)
    monkeypatch.setattr(embeddings.CategoryModel, "fit", fit)
    return made


def labelled(path: Path, said: list[str], **labeller: Any) -> tuple[Prompt, ...]:
    config = Config.model_validate({"labeller": {"min_confidence": 0.5, **labeller}})
    with RunDir.open(path, config) as run:
        return label(config, BOOK, lambda: PROMPTS, run, said.append)


def test_prompts_without_a_category_get_the_likeliest_and_doubtful_ones_the_general(
    tmp_path: Path, fitted: list[Guesser]
) -> None:
    said: list[str] = []
    found = labelled(tmp_path / "run", said)
    assert {each.id: each.category for each in found} == {
        "given": "fraud", "sure": "drugs", "doubtful": GENERAL, "kind": "privacy",
    }  # fmt: skip
    assert [each.id for each in found] == [each.id for each in PROMPTS]
    (model,) = fitted
    # A harmful prompt breaks some rule, so that the general category is no guess; a benign one may have it.
    assert model.asked == [([PROMPTS[1].text, PROMPTS[2].text], GENERAL), ([PROMPTS[3].text], "")]
    assert PROMPTS[0].text in {each.text for each in model.known}
    assert not {each.text for each in model.known} & {each.text for each in PROMPTS[1:]}
    assert said == ["labeller: 75.0% right on 123 prompts (cross-validated by topic), labelled 3"]


def test_labels_are_made_once(tmp_path: Path, fitted: list[Guesser]) -> None:
    said: list[str] = []
    first = labelled(tmp_path / "run", said)
    again = labelled(tmp_path / "run", said)
    assert again == first and len(fitted) == 1 and len(said) == 2 and said[0] == said[1]
    assert list(read_rows(tmp_path / "run/stages/labels/labeller.json", Labelling)) == [Labelling(0.75, 123, 3)]


def test_given_labels_leave_the_rest_to_the_general_category(tmp_path: Path, fitted: list[Guesser]) -> None:
    said: list[str] = []
    found = labelled(tmp_path / "run", said, type="given")
    assert [each.category for each in found] == ["fraud", GENERAL, GENERAL, GENERAL]
    assert fitted == [] and said == []
