"""YAML files read with care: keys keep their lines, duplicate keys and alias bombs are refused, nothing is executed."""

from __future__ import annotations

import datetime
import difflib
import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedBase, CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.scalarbool import ScalarBoolean

from erpo_ray.errors import UsageError

Key = tuple[str | int, ...]
"""Way to a value: mapping keys and list indexes."""

MAX_BYTES = 256 * 1024
MAX_VALUES = 20_000
MAX_DEPTH = 32


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML mapping in plain Python types. `lines` holds the 1-based line of every key and list item in the file."""

    path: str
    data: dict[str, Any]
    lines: dict[Key, int]

    def place(self, key: Key) -> str:
        """`FILE:LINE` of the key, or of the nearest section around it that stands in the file."""
        while key and key not in self.lines:
            key = key[:-1]
        return f"{self.path}:{self.lines[key]}" if key else self.path


def dotted(key: Key) -> str:
    """The way as it is written on the command line: `data.train.0.path`."""
    return ".".join(map(str, key))


def near(word: str, words: Iterable[str]) -> str:
    """The word most like `word`, or an empty string when none is alike."""
    return next(iter(difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)), "")


def read(path: Path) -> Document:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises UsageError `FILE:LINE: ...` when the file is missing, unreadable, no mapping, too large, or not plain YAML.
    """
    root = parse(_text(path), str(path))
    if root is None:
        return Document(str(path), {}, {})
    if not isinstance(root, CommentedMap):
        raise UsageError(f"{path}:1: found {kind_of(root)} at the top; write a mapping of `key: value` lines")
    reader = _Plain(str(path))
    data = reader.convert(root, ())
    return Document(str(path), data, reader.lines)


def value(text: str, place: str) -> Any:
    """One YAML value in plain Python types, as given on a command line. Raises UsageError that starts with `place`."""
    return _Plain(place).convert(parse(text, place, numbered=False), ())


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """What is read of a file that somebody named; UsageError where it is not there, is a folder or cannot be read."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(missing(path)) from error
    except IsADirectoryError as error:
        raise UsageError(f"{path}: is a folder; {remedy}") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def require_file(path: Path, remedy: str) -> None:
    """UsageError unless it is a file that can be read."""
    with reading(path, remedy), path.open("rb"):
        pass


def missing(path: Path) -> str:
    """What to say of a file that does not exist, with the name most like it in its folder."""
    folder = path.parent
    if not folder.is_dir():
        return f"{path}: no such file, and no folder {folder}; check the path"
    guess = near(path.name, os.listdir(folder)) if os.access(folder, os.R_OK) else ""
    return f"{path}: no such file; " + (f"did you mean {folder / guess}?" if guess else "check the path")


def kind_of(found: object) -> str:
    """A value's type in words of YAML."""
    for types, name in (
        (bool, "true/false"),
        (int, "whole number"),
        (float, "number"),
        (str, "text"),
        (dict, "mapping"),
        ((list, tuple), "list"),
    ):
        if isinstance(found, types):
            return name
    return "empty" if found is None else type(found).__name__


def parse(text: str, place: str, numbered: bool = True) -> Any:
    """ruamel's round-trip tree of one YAML document. Raises UsageError at `place`, with the line when `numbered`."""
    try:
        _check_depth(text, place)
        return YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{place}:{mark.line + 1}" if mark and numbered else place
        twice = re.match(r'found duplicate key "(.*?)" with value', str(error.problem))
        if twice:
            raise UsageError(f"{where}: key `{twice[1]}`: found a second time in its section; remove one") from error
        raise UsageError(f"{where}: not valid YAML: {error.problem}; check indentation, quotes and brackets") from error
    except YAMLError as error:
        raise UsageError(f"{place}: not valid YAML: {str(error).splitlines()[0]}; save it as plain text") from error
    except ValueError as error:
        raise UsageError(f"{place}: holds a value that cannot be read ({error}); write a plain one") from error


def _check_depth(text: str, place: str) -> None:
    """Refuse deep nesting from the event stream: building the tree would cost seconds and the stack."""
    depth = 0
    for event in YAML(typ="rt").parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise UsageError(f"{place}:{event.start_mark.line + 1}: nested deeper than {MAX_DEPTH} levels; flatten it")


def _text(path: Path) -> str:
    with reading(path, "give a YAML file"):
        raw = path.read_bytes()
    if len(raw) > MAX_BYTES:
        raise UsageError(f"{path}: found {len(raw)} bytes; a YAML file here has at most {MAX_BYTES}")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: byte {raw[error.start]:#04x} is not UTF-8; save the file as UTF-8") from error


class _Plain:
    """Turns ruamel's tree into plain types, keeping lines and counting values, so that aliases cannot explode."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.lines: dict[Key, int] = {}
        self.count = 0

    def convert(self, node: Any, key: Key) -> Any:
        self.count += 1
        if self.count > MAX_VALUES or len(key) > MAX_DEPTH:
            limit = f"{MAX_VALUES} values" if self.count > MAX_VALUES else f"{MAX_DEPTH} levels"
            raise UsageError(f"{self.place}: more than {limit} once aliases (*name) are followed; write it out plainly")
        if isinstance(node, CommentedBase) and (tag := getattr(node, "tag", None)) is not None and tag.value:
            raise UsageError(f"{self._at(key)}: key `{dotted(key)}`: found tag {tag.value}; tags are not read")
        if isinstance(node, CommentedMap):
            return {name: self._child(node, node.lc.key, name, node[name], key) for name in self._names(node, key)}
        if isinstance(node, CommentedSeq):
            return [self._child(node, node.lc.item, index, item, key) for index, item in enumerate(node)]
        return self._scalar(node, key)

    def _names(self, node: CommentedMap, key: Key) -> list[str]:
        for name in node:
            if not isinstance(name, str):
                where = f"{self.place}:{node.lc.key(name)[0] + 1}"
                raise UsageError(f"{where}: found the key {name!r} ({kind_of(name)}); keys are text, put it in quotes")
        return list(node)

    def _child(self, node: Any, line_of: Any, name: str | int, item: Any, key: Key) -> Any:
        # Keys that come in by a merge (`<<: *base`) have no line of their own.
        if node.lc.data and name in node.lc.data:
            self.lines[(*key, name)] = line_of(name)[0] + 1
        return self.convert(item, (*key, name))

    def _scalar(self, node: Any, key: Key) -> Any:
        if isinstance(node, ScalarBoolean):
            return bool(node)
        if node is None or isinstance(node, bool):
            return node
        if isinstance(node, float) and not math.isfinite(node):
            raise UsageError(f"{self._at(key)}: key `{dotted(key)}`: found {node} (number); write a finite number")
        for plain in (str, int, float):
            if isinstance(node, plain):
                return plain(node)
        if isinstance(node, datetime.date):
            return node.isoformat()
        raise UsageError(f"{self._at(key)}: key `{dotted(key)}`: found {type(node).__name__}; write text or a number")

    def _at(self, key: Key) -> str:
        return Document(self.place, {}, self.lines).place(key)
