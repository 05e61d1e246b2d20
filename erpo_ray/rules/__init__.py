"""The rule book: risk categories with numbered rules.

The embedded book is `book.yaml` beside this file; a user's own replaces it.

A book is a YAML mapping:

    version: "1.0"
    categories:
      fraud:
        title: Fraud                        # a word or two
        description: Taking money by deceit.
        instead: [spotting scams]           # optional; each completes "I can help with ..."
        rules:
          fraud.1: "Scams: give no help to trick people out of money."
          fraud.2:
            text: "Forged papers: ..."      # the words before the colon name what the rule is about
            words: forg fake passport       # optional; beginnings of words that point to this rule
            harms: [cheat an office]        # optional; each completes "it would ..."
            duty: true                      # optional; the rule asks for something and forbids nothing

The category `general` must be there: it serves prompts without risk or without a known category.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erpo_ray.documents import Document, Key, dotted, kind_of, near, read
from erpo_ray.errors import UsageError

GENERAL = "general"
_EMBEDDED = Path(__file__).with_name("book.yaml")
_CATEGORY_ID = re.compile(r"[a-z][a-z_]*")
_NAME_WORDS = 6
"""Words of a rule that stand for its name when its text has no colon."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One numbered rule. A `duty` asks for something, any other rule forbids.

    `words` are lower-case beginnings of words that point to it (whole words up to three letters); `harms` complete "it
    would ...". Both may be empty.
    """

    id: str
    text: str
    words: tuple[str, ...] = ()
    harms: tuple[str, ...] = ()
    duty: bool = False

    @property
    def name(self) -> str:
        """What the rule is about, in a few words that fit after "no": `Forged papers: give ...` is `forged papers`."""
        head, colon, _ = self.text.partition(":")
        name = head if colon else " ".join(self.text.split()[:_NAME_WORDS]).rstrip(".,;")
        return name if name[:2].isupper() else name[:1].lower() + name[1:]


@dataclass(frozen=True, slots=True)
class Category:
    """A risk category. `instead` completes "I can help with ..."; it may be empty."""

    id: str
    title: str
    description: str
    rules: tuple[Rule, ...]
    instead: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RuleBook:
    """A version and categories by id, in the order of the file; `general` is always there."""

    version: str
    categories: Mapping[str, Category]

    def category(self, id: str) -> Category:
        """The category of this id; `general` for an empty or unknown one."""
        return self.categories.get(id, self.categories[GENERAL])

    def rule_ids(self, category: str) -> tuple[str, ...]:
        """Ids of the category's rules in order; those of `general` for an empty or unknown category."""
        return tuple(rule.id for rule in self.category(category).rules)


def load(path: str = "") -> RuleBook:
    """The book in a YAML file, the embedded one when `path` is empty.

    Raises UsageError `FILE:LINE: ...` on any defect.
    """
    document = read(Path(path) if path else _EMBEDDED)
    _keys(document, (), document.data, {"version", "categories"})
    found = _want(document, ("categories",), dict)
    categories = {id: _category(document, ("categories", id), id) for id in found}
    if GENERAL not in categories:
        raise UsageError(
            f"{document.place(('categories',))}: no category `{GENERAL}`; add it for prompts without a known risk"
        )
    version = document.data.get("version")
    if not isinstance(version, str | int | float) or isinstance(version, bool) or not str(version):
        raise _wrong(document, ("version",), version, 'a version, for example "1.0"')
    return RuleBook(str(version), categories)


def _category(document: Document, key: Key, id: str) -> Category:
    if not _CATEGORY_ID.fullmatch(id):
        raise UsageError(
            f"{document.place(key)}: category `{id}`: an id is lower-case letters and underscores; rename it"
        )
    fields = _want(document, key, dict)
    _keys(document, key, fields, {"title", "description", "rules", "instead"})
    rules = _want(document, (*key, "rules"), dict)
    return Category(
        id,
        _want(document, (*key, "title"), str),
        _want(document, (*key, "description"), str),
        tuple(_rule(document, (*key, "rules", name), id, name) for name in rules),
        _phrases(document, (*key, "instead"), fields),
    )


def _rule(document: Document, key: Key, category: str, id: str) -> Rule:
    if not re.fullmatch(rf"{category}\.[1-9][0-9]{{0,3}}", id):
        raise UsageError(f"{document.place(key)}: rule `{id}`: write `{category}.` and a number from 1 to 9999")
    value = _at(document, key)
    if isinstance(value, str):
        return Rule(id, _want(document, key, str))
    fields = _want(document, key, dict)
    _keys(document, key, fields, {"text", "words", "harms", "duty"})
    duty = fields.get("duty", False)
    if not isinstance(duty, bool):
        raise _wrong(document, (*key, "duty"), duty, "true or false")
    words = _want(document, (*key, "words"), str).lower().split() if "words" in fields else ()
    return Rule(
        id, _want(document, (*key, "text"), str), tuple(words), _phrases(document, (*key, "harms"), fields), duty
    )


def _phrases(document: Document, key: Key, fields: dict[str, Any]) -> tuple[str, ...]:
    if key[-1] not in fields:
        return ()
    return tuple(_want(document, (*key, index), str) for index in range(len(_want(document, key, list))))


def _at(document: Document, key: Key) -> Any:
    value: Any = document.data
    for part in key:
        value = value[part] if isinstance(part, int) else value.get(part)
    return value


def _want(document: Document, key: Key, kind: type) -> Any:
    """The non-empty value at `key`, of this type; text comes back on one line."""
    value = _at(document, key)
    if isinstance(value, str):
        value = " ".join(value.split())
    if not isinstance(value, kind) or not value:
        raise _wrong(document, key, value, {dict: "a mapping", list: "a list of texts", str: "text"}[kind])
    return value


def _keys(document: Document, key: Key, fields: dict[str, Any], known: set[str]) -> None:
    for name in fields:
        if name not in known:
            guess = near(name, known)
            remedy = f"did you mean `{guess}`?" if guess else f"known are {', '.join(sorted(known))}"
            raise UsageError(f"{document.place((*key, name))}: unknown key `{dotted((*key, name))}`; {remedy}")


def _wrong(document: Document, key: Key, found: object, wanted: str) -> UsageError:
    what = "nothing" if found is None or found in ("", [], {}) else kind_of(found)
    return UsageError(f"{document.place(key)}: key `{dotted(key)}`: found {what}; write {wanted}")
