"""Labelled texts that a judge is measured on, as they stand in a file.

| columns | what is judged | label |
|---|---|---|
| `prompt`, `response`, `label` | the response, as an answer to the prompt | of the response |
| `prompt` (or any column of a message), `label` | the text itself | of the text |
| `prompt`, `preferred`, `rejected` | both answers, each as the rows above | `preferred` is the safer one |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from erpo_ray.config import Source
from erpo_ray.errors import UsageError
from erpo_ray.prompts import loaders
from erpo_ray.types import identity


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text to judge. `prompt` is what it answers, empty when it stands alone."""

    id: str
    prompt: str
    text: str
    harmful: bool


@dataclass(frozen=True, slots=True)
class Preferred:
    """Two answers to one prompt; `preferred` is the safer or better one."""

    id: str
    prompt: str
    preferred: str
    rejected: str


def rows(found: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Labelled] | list[Preferred]:
    """The rows of a file, given with the place each stands at, all of the kind of its first. UsageError `FILE:LINE`."""
    labelled: list[Labelled] = []
    preferred: list[Preferred] = []
    for place, row in found:
        if "preferred" in row and "rejected" in row:
            answers = _text(row, "preferred", place), _text(row, "rejected", place)
            preferred.append(Preferred(_id(row, place), _text(row, "prompt", place), *answers))
        else:
            labelled.append(_labelled(row, place))
        if labelled and preferred:
            raise UsageError(f"{place}: found labelled texts and preferences in one file; split it into two")
    if not (labelled or preferred):
        raise UsageError("found no rows to measure a judge on; give a file with one labelled text a line")
    return labelled or preferred


def _labelled(row: Mapping[str, Any], place: str) -> Labelled:
    prompt = loaders.prompt_of(row, place, Source(path="rows"))
    if prompt.label == "unknown":
        raise UsageError(
            f"{place}: found no `label`; give harmful or benign, or `preferred` and `rejected` for two answers"
        )
    harmful = prompt.label == "harmful"
    if row.get("response") is None:
        return Labelled(_id(row, place), "", prompt.text, harmful)
    return Labelled(_id(row, place), prompt.text, _text(row, "response", place), harmful)


def _id(row: Mapping[str, Any], place: str) -> str:
    return str(row.get("id") or identity(place))


def _text(row: Mapping[str, Any], name: str, place: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{place}: {name}: found no text; fill it in or remove the row")
    return value
