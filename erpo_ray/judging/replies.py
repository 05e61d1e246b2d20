"""What a judge model may reply, and the strict reading of it.

A reply is one JSON object with exactly the fields of its form, and nothing around it but white space or one code fence.
Reasoning in front of a `</think>` is passed over. Anything else is a Failure with the reply's text, never a guess: no
search for something that looks like a score.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from erpo_ray.traces import CLOSE, THINK
from erpo_ray.types import Failure

Value = str | int | bool
Values = dict[str, Value]

CAUSES = (
    "empty_reply",
    "reply_too_long",
    "unclosed_think",
    "stray_think",
    "not_json",
    "not_an_object",
    "duplicate_key",
    "wrong_keys",
    "wrong_code",
    "wrong_value:FIELD",
)
"""Every cause of a Failure from `read`. `stray_think`: more than one block, or text in front of it; `wrong_code`: the
reply does not carry the code of its question; `wrong_value`: not one of the field's values."""

CODE = "code"
_LONGEST = 4000
"""Characters of a reply after its reasoning; the longest form takes a few hundred."""
_RAW = 2000
"""Characters of a reply or an error that a Failure keeps."""
_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*)\n[ \t]*```", re.DOTALL)
_TYPES = {str: "string", int: "integer", bool: "boolean"}


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a reply, each with all its values (of one type). A code of the question's own is added to them."""

    name: str
    fields: tuple[tuple[str, tuple[Value, ...]], ...]

    def schema(self) -> dict[str, Any]:
        """JSON schema of a reply, in the subset that every server with structured output takes.

        The code is any string there: constrained decoding would write it for a model that did not read it.
        """
        properties: dict[str, Any] = {CODE: {"type": "string"}}
        for name, values in self.fields:
            properties[name] = {"type": _TYPES[type(values[0])], "enum": list(values)}
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }


def read(reply: str, form: Form, code: str) -> Values | Failure:
    """The values of the form's fields in a reply that carries `code`, or why there are none (`CAUSES`)."""
    found = _object(reply)
    if isinstance(found, str):
        return Failure(found, excerpt(reply))
    if found.pop(CODE, None) != code:
        return Failure("wrong_code", excerpt(reply))
    cause = misfit(found, form)
    return Failure(cause, excerpt(reply)) if cause else found


def misfit(found: dict[str, Any], form: Form) -> str:
    """Why these are not the values of a form, its code aside; empty when they are."""
    if found.keys() != {name for name, _ in form.fields}:
        return "wrong_keys"
    for name, values in form.fields:
        # 1, 1.0 and True are equal in Python, and different in a reply.
        if type(found[name]) is not type(values[0]) or found[name] not in values:
            return f"wrong_value:{name}"
    return ""


def excerpt(text: str) -> str:
    """A text as a Failure keeps it: at most some kB, the middle left out, and with a UTF-8 form."""
    if len(text) > _RAW:
        text = f"{text[: _RAW // 2]}\n[{len(text) - _RAW} characters left out]\n{text[-_RAW // 2 :]}"
    return text.encode("utf-8", "backslashreplace").decode()


def _object(reply: str) -> dict[str, Any] | str:
    """The one JSON object of a reply, or the cause why there is none."""
    text = _after_reasoning(reply)
    if text is None:
        return "unclosed_think" if CLOSE not in reply else "stray_think"
    text = text.strip()
    if not text:
        return "empty_reply"
    if len(text) > _LONGEST:
        return "reply_too_long"
    fenced = _FENCE.fullmatch(text)
    try:
        found = json.loads(fenced[1] if fenced else text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except _DuplicateKey:
        return "duplicate_key"
    except (ValueError, RecursionError):
        return "not_json"
    return found if isinstance(found, dict) else "not_an_object"


def _after_reasoning(reply: str) -> str | None:
    """What follows the reasoning, if there is any; None where the think block is not one that opens the reply."""
    head, close, tail = reply.partition(CLOSE)
    if not close:
        return None if THINK in reply else reply
    before, think, _ = head.partition(THINK)
    stray = (before.strip() and think) or THINK in tail or CLOSE in tail or head.count(THINK) > 1
    return None if stray else tail


class _DuplicateKey(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _DuplicateKey
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
