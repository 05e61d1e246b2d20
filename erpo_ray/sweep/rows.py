"""The rows of a sweep, from its file: each a configuration of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from erpo_ray import documents, settings
from erpo_ray.complaints import complain, fault
from erpo_ray.config import Config
from erpo_ray.config.sweep import Budget, MeasuredRow, SweepFile
from erpo_ray.documents import Document, near
from erpo_ray.errors import UsageError

FIXED = (
    "seed", "backend", "overlap", "model", "data", "rules", "labeller", "teacher", "gate", "judge", "evaluate",
    "cluster", "tracking",
)  # fmt: skip
"""What no row may set for itself: it would be another comparison. The dialect of traces is the method's own."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `of` is None where a method trains; else a row, or "" for the model as given."""

    name: str
    config: Config
    of: str | None = None


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is compared. `common` is the configuration that all rows start from, named after the sweep."""

    name: str
    budget: Budget
    common: Config
    rows: tuple[Row, ...]


def load(path: Path, overrides: Sequence[str] = (), methods: Collection[str] = ()) -> Sweep:
    """The sweep in a file; `key=value` overrides are laid over what its rows have in common.

    Raises UsageError, one line for each fault, as `settings.load`.
    """
    document = documents.read(path)
    try:
        file = SweepFile.model_validate_json(json.dumps(document.data), strict=True)
    except ValidationError as error:
        raise UsageError(complain(error, document.place, SweepFile)) from error
    common = settings.resolve(_document(document, {"name": file.name}, file.common), overrides)
    rows: list[Row] = []
    for name in file.rows:
        rows.append(_row(document, file, name, rows, overrides, methods))
    return Sweep(file.name, file.budget, common, tuple(rows))


def _row(
    document: Document,
    file: SweepFile,
    name: str,
    before: Sequence[Row],
    overrides: Sequence[str],
    methods: Collection[str],
) -> Row:
    given, place = file.rows[name], document.place(("rows", name))
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(f"{place}: found the row {name!r}; it names a folder: use letters, digits, `-`, `_` and `.`")
    if "method" in given:
        for key in FIXED:
            if key in given and not (key == "model" and set(given[key]) == {"dialect"}):
                where = document.place(("rows", name, key))
                raise UsageError(fault(where, ("rows", name, key), given[key], "all rows share it; set it in `common`"))
        laid = _document(document, {"name": name}, file.common, given, ("rows", name))
        return Row(name, settings.resolve(laid, overrides, methods))
    try:
        measured = MeasuredRow.model_validate_json(json.dumps(given), strict=True)
    except ValidationError as error:
        said = complain(error, lambda key: document.place(("rows", name, *key)), MeasuredRow)
        raise UsageError(f"{said} (the row {name} has no `method`, so that it is only measured)") from error
    names = [row.name for row in before]
    if measured.of and measured.of not in names:
        guess = near(measured.of, names)
        remedy = f"did you mean {guess}?" if guess else "name a row further up, or leave it out for the model as given"
        raise UsageError(fault(document.place(("rows", name, "of")), ("rows", name, "of"), measured.of, remedy))
    found = settings.resolve(_document(document, {"name": name}, file.common), overrides)
    evaluate = found.evaluate.model_copy(update={"decode": measured.decode})
    return Row(name, found.model_copy(update={"evaluate": evaluate}), measured.of)


def _document(
    document: Document,
    named: dict[str, Any],
    common: dict[str, Any],
    own: dict[str, Any] | None = None,
    way: tuple[str, ...] = (),
) -> Document:
    """A configuration's document out of parts of the file; every key keeps the line it was written in."""
    lines = {key[1:]: line for key, line in document.lines.items() if key[0] == "common" and len(key) > 1}
    if way:
        at = len(way)
        lines |= {key[at:]: line for key, line in document.lines.items() if key[:at] == way and len(key) > at}
    return Document(document.path, {**settings.layered(common, own or {}), **named}, lines)
