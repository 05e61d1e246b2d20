"""From rows of any known shape to prompts: plain columns, chat messages, ShareGPT, Alpaca, STAR-1."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from erpo_ray.config import Source
from erpo_ray.documents import kind_of
from erpo_ray.errors import UsageError
from erpo_ray.prompts import attacks, files, seeds
from erpo_ray.types import Label, Prompt, identity, seed_of

TEXT_COLUMNS = ("prompt", "messages", "conversations", "instruction", "question")
"""Columns that hold the user's message, in order of preference."""


def read(
    source: Source,
    root: str = "",
    categories: Collection[str] = (),
    seed: int = 0,
    role: Literal["train", "evaluate"] = "train",
) -> list[Prompt]:
    """Prompts of one source as its settings ask, wrapped in attack templates where they say so.

    `categories` are the rule book's ids: a row's category is kept when it is one of them. `role` picks the half of
    the embedded templates that wraps. Raises UsageError `FILE:LINE: ...`.
    """
    return dressed(source, bare(source, root, categories), root, seed, role)


def embedded(categories: Collection[str] = ()) -> list[Prompt]:
    """The embedded prompts to train on, harmful, look-alike and everyday: what the embedded models learn from."""
    return [prompt for name in seeds.NAMES for prompt in read(Source(path=name, split="train"), categories=categories)]


def bare(source: Source, root: str = "", categories: Collection[str] = ()) -> list[Prompt]:
    """As `read`, before any template is wrapped around the prompts."""
    return _limited([prompt for prompt, _ in _read(source, root, categories)], source.limit)


def references(source: Source, column: str, root: str = "") -> dict[str, str]:
    """What `column` holds for each prompt of the source, by the id `bare` gives it. UsageError where it is empty."""
    found: dict[str, str] = {}
    for prompt, row in _read(source, root, ()):
        if row.get(column) in (None, ""):
            raise UsageError(
                f"{source.path}, prompt {prompt.id}: found no reference in the column {column!r}; columns found: "
                f"{', '.join(row)}"
            )
        found[prompt.id] = _as_text(row[column])
    return found


def second_turns(source: Source, root: str = "") -> dict[str, str]:
    """What the user says next, for each prompt of the source, by the id `bare` gives it.

    The second text of the list in the column `turns`, else of the list in the prompt's own. UsageError without one.
    """
    found: dict[str, str] = {}
    for prompt, row in _read(source, root, ()):
        place = f"{source.path}, prompt {prompt.id}"
        turns = row.get(source.columns.get("turns", "turns")) or row.get(_column(row, source.columns) or "")
        if not isinstance(turns, list) or len(turns) < 2 or not isinstance(turns[1], str):
            raise UsageError(
                f"{place}: found no second turn; write both as a list of texts in a column `turns`, or leave "
                f"`turns: 2` out of the suite; columns found: {', '.join(row)}"
            )
        found[prompt.id] = _message(turns[1], f"{place}: second turn")
    return found


def _read(source: Source, root: str, categories: Collection[str]) -> Iterator[tuple[Prompt, Mapping[str, Any]]]:
    """Each row that is kept, as a prompt and as it was found. UsageError when none is."""
    places: dict[str, str] = {}
    columns: dict[str, None] = {}
    total = 0
    for place, row in files.rows(source, root):
        total += 1
        columns |= dict.fromkeys(row)
        if not _kept(row, source.where):
            continue
        prompt = prompt_of(row, place, source, categories)
        if prompt.id in places:
            if row.get(source.columns.get("id", "id")) is not None:
                raise UsageError(
                    f"{place}: id: found {prompt.id!r} again (first at {places[prompt.id]}); ids are unique"
                )
            prompt = _renamed(prompt, places)
        places[prompt.id] = place
        yield prompt, row
    if not places:
        raise UsageError(_none(source, total, list(columns)))


def dressed(
    source: Source, prompts: list[Prompt], root: str = "", seed: int = 0, role: Literal["train", "evaluate"] = "train"
) -> list[Prompt]:
    """The prompts wrapped in the source's attack templates; the prompts themselves when it names none."""
    if source.attacks is None:
        return prompts
    templates = attacks.load(source.attacks, root, source.split or role)
    return attacks.wrap(prompts, templates, seed, source.repeat)


def name_of(source: Source) -> str:
    """What tables call the source."""
    return source.name or Path(source.path.rstrip("/")).name.split(".")[0]


def prompt_of(row: Mapping[str, Any], place: str, source: Source, categories: Collection[str] = ()) -> Prompt:
    """The prompt in one row. Raises UsageError, which names `place`."""
    text = _text(row, place, source.columns)
    category = row.get(source.columns.get("category", "category"))
    given = row.get(source.columns.get("id", "id"))
    return Prompt(
        id=identity(text) if given is None or given == "" else str(given),
        text=text,
        label=source.label or _label(row.get(source.columns.get("label", "label")), place),
        category=category if isinstance(category, str) and category in categories else source.category or "",
        topic=str(row.get(source.columns.get("topic", "topic")) or ""),
        twin=str(row.get("twin") or ""),
        source=name_of(source),
    )


def _text(row: Mapping[str, Any], place: str, columns: Mapping[str, str]) -> str:
    name = _column(row, columns)
    if name is None or name not in row:
        wanted = repr(name) if name else "any of " + ", ".join(TEXT_COLUMNS)
        raise UsageError(
            f"{place}: found the columns {', '.join(map(repr, row))} but not {wanted}; "
            "name the column of the user's message in `columns: {prompt: ...}`"
        )
    value = row[name]
    if isinstance(value, list):
        value = _first_turn(value)
    if name == "instruction" and isinstance(value, str) and row.get("input"):
        value = f"{value}\n\n{row['input']}"
    if not isinstance(value, str):
        raise UsageError(f"{place}: {name}: found {kind_of(value)}, no text of a user; write the user's message there")
    return _message(value, f"{place}: {name}")


def _column(row: Mapping[str, Any], columns: Mapping[str, str]) -> str | None:
    """The column of the user's message."""
    return columns.get("prompt") or next((name for name in TEXT_COLUMNS if name in row), None)


def _message(text: str, place: str) -> str:
    """The text without white space around it. UsageError, which names `place`, when no model can be asked it."""
    text = text.strip()
    if not text:
        raise UsageError(f"{place}: found an empty prompt; fill it in or remove the row")
    if not _encodable(text):
        raise UsageError(f"{place}: found half of a surrogate pair, which no tokenizer takes; repair the text")
    return text


def _first_turn(messages: list[Any]) -> object:
    """The first message of the user: `{role, content}` or ShareGPT's `{from, value}`; content may come in parts.

    Of a list of texts, the turns of a benchmark, the first.
    """
    if messages and isinstance(messages[0], str):
        return messages[0]
    for message in messages:
        if isinstance(message, Mapping) and (message.get("role") or message.get("from")) in ("user", "human"):
            content = message.get("content", message.get("value"))
            if isinstance(content, list):
                return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
            return content
    return messages


def _label(value: object, place: str) -> Label:
    if value is None:
        return "unknown"
    for label in get_args(Label):
        if value == label:
            return label
    raise UsageError(
        f"{place}: label: found {value!r} ({kind_of(value)}); use harmful, benign or unknown, "
        "or set `label` for the whole source"
    )


def _encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _kept(row: Mapping[str, Any], where: Mapping[str, str]) -> bool:
    return all(_as_text(row.get(column)) == wanted for column, wanted in where.items())


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _renamed(prompt: Prompt, taken: Collection[str]) -> Prompt:
    """A copy of a repeated text that came without an id, under an id of its own: mixing drops and counts it."""
    number = 2
    while f"{prompt.id}-{number}" in taken:
        number += 1
    return Prompt(f"{prompt.id}-{number}", prompt.text, prompt.label, prompt.category, prompt.topic, "", prompt.source)


def _limited(prompts: list[Prompt], limit: int | None) -> list[Prompt]:
    if limit is None or limit >= len(prompts):
        return prompts
    kept = sorted(range(len(prompts)), key=lambda index: seed_of("limit", prompts[index].text, index))[:limit]
    return [prompts[index] for index in sorted(kept)]


def _none(source: Source, total: int, columns: list[str]) -> str:
    if not total:
        return f"{source.path}: holds no rows; give a file with one prompt a line"
    wanted = ", ".join(f"{column}={value}" for column, value in source.where.items())
    return f"{source.path}: none of {total} rows has {wanted}; columns found: {', '.join(columns)}"
