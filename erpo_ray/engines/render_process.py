"""What renders chat templates: a program of its own, since a template is a model author's code.

It reads one request a line, `{"template", "variables"}`, and answers each with `{"text"}` or `{"fault", "cause"}`. It
holds no secret, opens nothing, and ends with its input. `templates` starts it; nothing of this project is imported.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

COMPUTE_S = 2.0
"""Seconds of computing for a chat; then the system ends the process."""
MAX_TEXT = 1 << 20
"""Bytes of a rendered chat."""
MAX_MEMORY = 1 << 29


class _Generation(Extension):
    """`{% generation %}` marks the assistant's own tokens, which nothing here asks for."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def environment() -> ImmutableSandboxedEnvironment:
    """The sandbox that transformers renders templates in, with the same filters and functions."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    made.filters["tojson"] = _json
    made.globals["raise_exception"] = _refuse
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return made


class _Refused(TemplateError):
    """The template takes no such chat."""


def _refuse(message: str) -> None:
    raise _Refused(message)


def _json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)


@lru_cache(maxsize=64)
def _compiled(template: str) -> jinja2.Template:
    return environment().from_string(template)


def answer(request: dict[str, Any]) -> dict[str, str]:
    """The rendered chat, or the kind of fault (`syntax`, `unsafe`, `size`, `refused`, `other`) with its cause."""
    try:
        return {"text": _rendered(_compiled(request["template"]), request["variables"])}
    except TemplateSyntaxError as error:
        return {"fault": "syntax", "cause": f"line {error.lineno}: {error.message}"}
    except SecurityError as error:
        return {"fault": "unsafe", "cause": str(error)}
    except (MemoryError, OverflowError):
        return {"fault": "size", "cause": f"it takes more than {MAX_MEMORY >> 20} MiB of memory"}
    except _Refused as error:
        return {"fault": "refused", "cause": str(error)}
    except Exception as error:  # whatever a template of others does is its fault
        return {"fault": "other", "cause": f"{type(error).__name__}: {error}"[:500]}


class _TooLong(MemoryError):
    """More text than a chat may have."""


def _rendered(template: jinja2.Template, variables: dict[str, Any]) -> str:
    pieces, size = [], 0
    for piece in template.generate(**variables):
        size += len(piece.encode("utf-8", "surrogatepass"))
        if size > MAX_TEXT:
            raise _TooLong
        pieces.append(piece)
    return "".join(pieces)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    for line in sys.stdin:
        # Its default action ends the process, also in the middle of an operation that Python would not interrupt.
        signal.setitimer(signal.ITIMER_PROF, COMPUTE_S)
        found = answer(json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
