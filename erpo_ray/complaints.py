"""What pydantic found wrong in a configuration, said in the words of the project: place, key, value, remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, get_args

from pydantic import ValidationError

from erpo_ray.config import Config, Section
from erpo_ray.documents import Key, dotted, kind_of, near

_REMEDIES = {
    "int_type": "write a whole number",
    "int_from_float": "write a whole number",
    "float_type": "write a number",
    "bool_type": "write true or false",
    "string_type": "write text, in quotes where it looks like something else",
    "tuple_type": "write a list",
    "list_type": "write a list",
    "dict_type": "write a mapping of `name: value`",
    "missing": "this key is required",
    "greater_than_equal": "use {ge} or more",
    "greater_than": "use more than {gt}",
    "less_than_equal": "use {le} or less",
    "less_than": "use less than {lt}",
    "literal_error": "use one of {expected}",
}


def complain(error: ValidationError, place: Callable[[Key], str], tree: type[Section] = Config) -> str:
    """One line for each fault; `place` says where a key was written, `tree` is the model that was filled."""
    return "\n".join(_line(found, place, tree) for found in error.errors(include_url=False))


def fault(place: str, key: Key, found: object, remedy: str) -> str:
    """`PLACE: key `x.y`: found V (type); remedy`."""
    return f"{place}: key `{dotted(key)}`: found {_shown(found)} ({kind_of(found)}); {remedy}"


def leaf_type(key: Key, tree: type[Section] = Config) -> Any:
    """The annotation of a key of the tree, None where the tree has no such key."""
    kind: Any = tree
    for part in key:
        if isinstance(part, int):
            kind = next(iter(get_args(kind)), None)
        elif isinstance(kind, type) and issubclass(kind, Section) and part in kind.model_fields:
            kind = kind.model_fields[part].annotation
        else:
            return None
    return kind


def unknown_key(key: Key, tree: type[Section] = Config) -> str:
    """The remedy for a key that does not exist: the key most likely meant, else those that exist there."""
    section, word = leaf_type(key[:-1], tree), str(key[-1])
    if "." in word and leaf_type((*key[:-1], *word.split(".")), tree) is not None:
        opened = "".join(f"{part}: {{" for part in word.split(".")[:-1])
        return f"unknown key, write `{opened}{word.rpartition('.')[2]}: ...{'}' * word.count('.')}`"
    siblings = list(section.model_fields) if isinstance(section, type) and issubclass(section, Section) else []
    everywhere = [way for way in _ways(tree, ()) if way[-1] == word]
    if not everywhere:
        guess = near(word, siblings)
        if guess:
            everywhere = [(*key[:-1], guess)]
        else:
            leaf = near(word, {str(way[-1]) for way in _ways(tree, ())})
            everywhere = [way for way in _ways(tree, ()) if way[-1] == leaf]
    if everywhere:
        meant = " or ".join(f"`{dotted(way)}`" for way in everywhere[:3])
        return f"unknown key, did you mean {meant}?"
    return f"unknown key, known here: {', '.join(siblings) or 'none'}"


def _ways(section: type[Section], way: Key) -> list[Key]:
    """Ways to every key under a section, sections of lists left out."""
    out: list[Key] = []
    for name, field in section.model_fields.items():
        out.append((*way, name))
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            out += _ways(field.annotation, (*way, name))
    return out


def _line(found: Any, place: Callable[[Key], str], tree: type[Section]) -> str:
    key: Key = tuple(found["loc"])
    if found["type"] == "value_error":
        return _whole(str(found["ctx"]["error"]), place)
    if found["type"] == "missing":
        return f"{place(key)}: key `{dotted(key)}`: missing; {_describe(key, tree)}"
    if found["type"] == "extra_forbidden":
        return fault(place(key), key, found["input"], unknown_key(key, tree))
    if found["type"].startswith("model_"):
        keys = ", ".join(leaf_type(key, tree).model_fields)
        return fault(place(key), key, found["input"], f"write a section with keys of {keys}")
    known = _REMEDIES.get(found["type"])
    remedy = known.format(**found.get("ctx", {})) if known else str(found["msg"])
    about = _describe(key, tree)
    return fault(place(key), key, found["input"], f"{remedy} ({about})" if about else remedy)


def _whole(message: str, place: Callable[[Key], str]) -> str:
    """A fault of several keys together, placed at the first key of the message that was written down."""
    for name in re.findall(r"[a-z_]+(?:\.[a-z_]+)+", message):
        key: Key = tuple(name.split("."))
        if place(key) != place(()):
            return f"{place(key)}: key `{name}`: {message}"
    return f"{place(())}: {message}"


def _describe(key: Key, tree: type[Section]) -> str:
    """The key's own documentation, as one lower-key remark."""
    section = leaf_type(key[:-1], tree)
    if not (isinstance(section, type) and issubclass(section, Section)):
        return ""
    field = section.model_fields.get(str(key[-1]))
    return " ".join((field.description or "").split()).rstrip(".") if field else ""


def _shown(found: object) -> str:
    text = repr(found)
    return text if len(text) <= 60 else text[:57] + "..."
