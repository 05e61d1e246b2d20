"""What pydantic found wrong in a configuration, said in the words of the project: place, key, value, remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin

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
    """The annotation of a key of the tree, None where the tree has no such key.

    Of a section of several types, the first that has the key counts, unless the key names the type.
    """
    kind: Any = tree
    for part in key:
        if isinstance(part, int):
            kind = next(iter(get_args(kind)), None)
            continue
        choices = _choices(kind)
        named = next((choice for choice in choices if len(choices) > 1 and _type(choice) == part), None)
        holder = next((choice for choice in choices if part in choice.model_fields), None)
        if named is None and holder is None:
            return None
        kind = named or (holder.model_fields[part].annotation if holder else None)
    return kind


def _choices(kind: Any) -> list[type[Section]]:
    """The sections that an annotation allows: several where a key `type` says which."""
    if get_origin(kind) is Annotated:
        return _choices(get_args(kind)[0])
    if isinstance(kind, type) and issubclass(kind, Section):
        return [kind]
    return [choice for each in get_args(kind) for choice in _choices(each)] if get_origin(kind) is not tuple else []


def _type(section: type[Section]) -> str:
    """What the key `type` of a section says when it is this one."""
    field = section.model_fields.get("type")
    return str(field.default) if field else ""


def _written(key: Key, tree: type[Section]) -> Key:
    """The key as it stands in the file: pydantic's own also names the types of sections."""
    return tuple(
        part
        for end, part in enumerate(key)
        if len(choices := _choices(leaf_type(key[:end], tree))) < 2 or part not in [_type(choice) for choice in choices]
    )


def unknown_key(key: Key, tree: type[Section] = Config) -> str:
    """The remedy for a key that does not exist: the key most likely meant, else those that exist there."""
    word, written = str(key[-1]), _written(key, tree)
    if "." in word and leaf_type((*key[:-1], *word.split(".")), tree) is not None:
        opened = "".join(f"{part}: {{" for part in word.split(".")[:-1])
        return f"unknown key, write `{opened}{word.rpartition('.')[2]}: ...{'}' * word.count('.')}`"
    siblings = list(dict.fromkeys(name for each in _choices(leaf_type(key[:-1], tree)) for name in each.model_fields))
    everywhere = [way for way in _ways(tree, ()) if way[-1] == word]
    if not everywhere:
        guess = near(word, siblings)
        if guess:
            everywhere = [(*written[:-1], guess)]
        else:
            leaf = near(word, {str(way[-1]) for way in _ways(tree, ())})
            everywhere = [way for way in _ways(tree, ()) if way[-1] == leaf]
    if everywhere:
        meant = " or ".join(f"`{dotted(way)}`" for way in everywhere[:3])
        return f"unknown key, did you mean {meant}?"
    return f"unknown key, known here: {', '.join(siblings) or 'none'}"


def _ways(section: type[Section], way: Key) -> list[Key]:
    """Ways to every key under a section, sections of lists left out."""
    out: dict[Key, None] = {}
    for name, field in section.model_fields.items():
        out[(*way, name)] = None
        for choice in _choices(field.annotation):
            out |= dict.fromkeys(_ways(choice, (*way, name)))
    return list(out)


def _line(found: Any, place: Callable[[Key], str], tree: type[Section]) -> str:
    full: Key = tuple(found["loc"])
    key = _written(full, tree)
    if found["type"] == "value_error":
        return _whole(str(found["ctx"]["error"]), place, key)
    if found["type"] == "missing":
        return f"{place(key)}: key `{dotted(key)}`: missing; {_describe(full, tree) or _REMEDIES['missing']}"
    if found["type"] == "extra_forbidden":
        return fault(place(key), key, found["input"], unknown_key(full, tree))
    if found["type"] == "judge_type":
        return fault(place((*key, "type")), (*key, "type"), found["input"]["type"], found["msg"])
    if found["type"].startswith("model_"):
        keys = ", ".join(leaf_type(full, tree).model_fields)
        return fault(place(key), key, found["input"], f"write a section with keys of {keys}")
    known = _REMEDIES.get(found["type"])
    remedy = known.format(**found.get("ctx", {})) if known else str(found["msg"])
    about = _describe(full, tree)
    return fault(place(key), key, found["input"], f"{remedy} ({about})" if about else remedy)


def _whole(message: str, place: Callable[[Key], str], section: Key) -> str:
    """A fault of several keys together, placed at the first key of the message that was written down.

    The message names keys from the top, or for a section that may stand in several places by the section's own name;
    of a key without a section it says what it `is`.
    """
    for name in [*re.findall(r"[a-z_]+(?:\.[a-z_]+)+", message), *re.findall(r"\b([a-z_]+) is ", message)]:
        key: Key = tuple(name.split("."))
        if key[0] in section:
            key = (*section, *key[1:])
        if place(key) != place(()):
            return f"{place(key)}: key `{dotted(key)}`: {message}"
    return f"{place(section)}: {message}"


def _describe(key: Key, tree: type[Section]) -> str:
    """The key's own documentation, as one lower-key remark."""
    for section in _choices(leaf_type(key[:-1], tree)):
        if str(key[-1]) in section.model_fields:
            return " ".join((section.model_fields[str(key[-1])].description or "").split()).rstrip(".")
    return ""


def _shown(found: object) -> str:
    text = repr(found)
    return text if len(text) <= 60 else text[:57] + "..."
