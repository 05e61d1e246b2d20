"""Configurations from files and command lines: read, check, show, compare. The tree itself is `erpo_ray.config`."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from erpo_ray import documents
from erpo_ray.complaints import complain, fault, leaf_type, unknown_key
from erpo_ray.config import Config
from erpo_ray.config.judges import AnyJudge, JudgeFile
from erpo_ray.documents import Document, Key, dotted, near
from erpo_ray.errors import UsageError

COMMAND_LINE = "command line"


@dataclass(frozen=True, slots=True)
class Setting:
    """One resolved value: its dotted key, and `FILE:LINE`, `command line` or `default`."""

    key: str
    value: Any
    source: str


def load(path: Path, overrides: Sequence[str] = (), methods: Collection[str] = ()) -> Config:
    """The configuration in a YAML file, with `a.b.c=value` overrides laid over it.

    `methods` are the known method names; empty leaves the name unchecked.
    Raises UsageError, one line for each fault: `FILE:LINE: key `x.y`: found V (type); remedy`.
    """
    return resolve(documents.read(path), overrides, methods)


def resolve(document: Document, overrides: Sequence[str] = (), methods: Collection[str] = ()) -> Config:
    """As `load`, of a file that has been read."""
    document, given = _merged(document, overrides)
    config = _validate(document, given)
    if methods and config.method not in methods:
        guess = near(config.method, methods)
        remedy = f"did you mean {guess}? " if guess else ""
        known = f"known methods: {', '.join(sorted(methods))}"
        raise UsageError(fault(_place(document, given, ("method",)), ("method",), config.method, remedy + known))
    return config


def judge(path: Path) -> AnyJudge:
    """The judge of a YAML file that holds a judge's section (with its `type`), or a configuration with one.

    Raises as `load`.
    """
    document = documents.read(path)
    if "type" not in document.data:
        return load(path).judge
    try:
        return JudgeFile.model_validate_json(json.dumps({"judge": document.data}), strict=True).judge
    except ValidationError as error:
        raise UsageError(complain(error, lambda key: document.place(key[1:]), JudgeFile)) from error


def sources(path: Path, overrides: Sequence[str] = ()) -> list[Setting]:
    """Every resolved value with the place it came from, in the order of the tree. Raises as `load`."""
    document, given = _merged(documents.read(path), overrides)
    config = _validate(document, given)
    return [
        Setting(dotted(key), value, _origin(document, given, key))
        for key, value in _leaves(config.model_dump(mode="json"), ())
    ]


def schema() -> dict[str, Any]:
    """JSON schema of configuration files, for editors."""
    return Config.model_json_schema()


def _merged(document: Document, overrides: Sequence[str]) -> tuple[Document, set[Key]]:
    """The document over the defaults with the overrides over both, and the keys that the overrides set.

    Sections are merged before validation, so that naming one key of `prefer.fit` keeps the other defaults of
    `prefer.fit` and does not fall back to those of every `fit`. Not so the judge, whose defaults depend on its type.
    """
    document = replace(document, data=layered(Config().model_dump(mode="json", exclude={"judge"}), document.data))
    given: set[Key] = set()
    for text in overrides:
        name, sign, raw = text.partition("=")
        if not sign or not name.strip("."):
            raise UsageError(f"{COMMAND_LINE}: found {text!r}; write overrides as key=value, for example seed=1")
        key: Key = tuple(int(part) if part.isdecimal() else part for part in name.strip().split("."))
        _put(document.data, key, _typed(key, raw))
        given.add(key)
    return document, given


def layered(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, section by section; lists and values are replaced whole."""
    out = dict(below)
    for name, value in above.items():
        held = out.get(name)
        out[name] = layered(held, value) if isinstance(held, dict) and isinstance(value, dict) else value
    return out


def _typed(key: Key, raw: str) -> Any:
    """The text itself where the tree wants text, else YAML's reading of it."""
    return raw if leaf_type(key) is str else documents.value(raw, f"{COMMAND_LINE}: key `{dotted(key)}`")


def _put(data: dict[str, Any], key: Key, value: Any) -> None:
    node: Any = data
    part: Any
    for depth, part in enumerate(key):
        last = depth == len(key) - 1
        if isinstance(node, list):
            if not isinstance(part, int) or part >= len(node):
                raise UsageError(
                    f"{COMMAND_LINE}: key `{dotted(key)}`: found a list of {len(node)} at `{dotted(key[:depth])}`; "
                    "give the index of one of its items, counted from 0"
                )
        elif not isinstance(node, dict) or isinstance(part, int):
            raise UsageError(fault(COMMAND_LINE, key, value, _no_way(key[: depth + 1])))
        elif not last and node.get(part) is None:
            node[part] = {}
        if last:
            node[part] = value
        else:
            node = node[part]


def _no_way(key: Key) -> str:
    if isinstance(key[-1], int):
        return f"`{dotted(key[:-1])}` is no list; leave the index out"
    return f"`{dotted(key[:-1])}` is a value, not a section" if leaf_type(key[:-1]) else unknown_key(key)


def _validate(document: Document, given: set[Key]) -> Config:
    """Strict types, through JSON so that lists may stand for tuples."""
    try:
        return Config.model_validate_json(json.dumps(document.data), strict=True)
    except ValidationError as error:
        raise UsageError(complain(error, lambda key: _place(document, given, key))) from error


def _overridden(given: set[Key], key: Key) -> bool:
    return any(key[: len(override)] == override for override in given)


def _place(document: Document, given: set[Key], key: Key) -> str:
    under = key and key not in document.lines and any(override[: len(key)] == key for override in given)
    return COMMAND_LINE if under or _overridden(given, key) else document.place(key)


def _origin(document: Document, given: set[Key], key: Key) -> str:
    if _overridden(given, key):
        return COMMAND_LINE
    return document.place(key) if key in document.lines else "default"


def _leaves(node: Any, key: Key) -> Iterator[tuple[Key, Any]]:
    """Every value that is no section, with its way; empty lists and mappings are values."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    if items and node:
        for name, child in items:
            yield from _leaves(child, (*key, name))
    else:
        yield key, node
