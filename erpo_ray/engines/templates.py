"""Chat templates: read from a model directory, rendered in bounds, and what text they add by themselves.

A template is a program that comes with a model. Jinja's sandbox keeps it from the interpreter's inner parts; a process
of its own, with limits of the system, keeps it from running or growing without end.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from jinja2 import TemplateSyntaxError, nodes

from erpo_ray.engines import render_process
from erpo_ray.engines.vetting import read_json
from erpo_ray.errors import EnvironmentFault, UsageError

FILE = "chat_template.jinja"
MAX_TEMPLATE = 1 << 20
"""Bytes of a template; those of chat models have a few thousand."""
_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

Message = Mapping[str, Any]
"""`role` and `content`."""


class TemplateFault(UsageError):
    """A chat that a template does not render. `kind`: `syntax`, `unsafe`, `size`, `time`, `refused` or `other`."""

    def __init__(self, where: Path, kind: str, cause: str) -> None:
        super().__init__(f"{where}: the chat template {_TOLD[kind].format(cause)}; {_REMEDIES[kind]}")
        self.kind = kind


_TOLD = {
    "syntax": "is no valid Jinja ({})",
    "unsafe": "reaches for what a template has no business with ({})",
    "size": f"renders more than {render_process.MAX_TEXT >> 20} MiB of a chat, or {{}}",
    "time": f"took more than {render_process.COMPUTE_S:.0f} s to render a chat{{}}",
    "refused": "refuses a chat ({})",
    "other": "fails on a chat ({})",
}
_REMEDIES = dict.fromkeys(_TOLD, f"download the model again, or put a template that fits into {FILE}") | {
    "unsafe": f"do not trust this model; put a template of the model's own authors into {FILE}",
    "size": f"put a template of the model's own authors into {FILE}",
    "time": f"put a template of the model's own authors into {FILE}",
}


def read(model_dir: Path) -> str:
    """The template that transformers takes for a chat; empty when there is none. UsageError when it is too large."""
    path = model_dir / FILE
    if path.exists():
        _require_size(path, path.stat().st_size)
        return path.read_text("utf-8", errors="replace")
    found = _settings(model_dir).get("chat_template")
    if isinstance(found, list):
        named = [each for each in found if isinstance(each, dict)]
        found = {str(each.get("name")): each.get("template") for each in named}.get("default")
    text = found if isinstance(found, str) else ""
    _require_size(model_dir / "tokenizer_config.json", len(text))
    return text


def identity(model_dir: Path) -> str:
    """The sha256 of the template, in hex."""
    return hashlib.sha256(read(model_dir).encode()).hexdigest()


def check(model_dir: Path, strict: bool = False) -> None:
    """TemplateFault when the template, if there is one, renders no chat in bounds.

    With `strict` also when it refuses a single user's message: a judge's template may want another chat.
    """
    if not (template := read(model_dir)):
        return
    settings = _settings(model_dir)
    tokens = {name: _content(settings[name]) for name in _TOKENS if settings.get(name)}
    try:
        render(model_dir, template, [{"role": "user", "content": "Hello"}], tokens, add_generation_prompt=True)
    except TemplateFault as error:
        if strict or error.kind not in ("refused", "other"):
            raise


def render(where: Path, template: str, messages: Sequence[Message], tokens: Mapping[str, Any], **more: Any) -> str:
    """The chat as text. `tokens` are the tokenizer's special ones by name, `more` the template's own variables.

    Raises TemplateFault, which names `where`.
    """
    variables = {"messages": list(messages), "tools": None, "documents": None, **tokens, **more}
    found = _process(os.getpid()).ask({"template": template, "variables": variables})
    if found is None:
        raise TemplateFault(where, "time", "")
    if "fault" in found:
        raise TemplateFault(where, found["fault"], found["cause"])
    return found["text"]


def apply(tokenizer: Any, where: Path, messages: Sequence[Message], **more: Any) -> str:
    """As `render`, with template and special tokens of a transformers tokenizer that has a template."""
    return render(where, tokenizer.get_chat_template(), messages, tokenizer.special_tokens_map, **more)


class _Process:
    """The process that renders. One that was ended for taking too long is followed by a new one."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: subprocess.Popen[str] | None = None

    def ask(self, request: Mapping[str, Any]) -> dict[str, str] | None:
        """Its answer; None when it took too long."""
        with self._lock:
            running = self._running or self._started()
            assert running.stdin and running.stdout
            try:
                print(json.dumps(request), file=running.stdin, flush=True)
                line = running.stdout.readline()
            except BrokenPipeError:
                line = ""
            if line:
                return json.loads(line)
            self._running = None
            with running:
                pass
            if running.returncode != -signal.SIGPROF:
                raise EnvironmentFault(
                    f"the process that renders chat templates ended with {running.returncode}; "
                    "if the machine lacks memory, free some, and start the same command again"
                )
            return None

    def _started(self) -> subprocess.Popen[str]:
        self._running = subprocess.Popen(
            [sys.executable, "-P", render_process.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return self._running


@lru_cache(maxsize=1)
def _process(pid: int) -> _Process:
    """That of this process: one that was forked must not share a pipe."""
    return _Process()


@dataclass(frozen=True, slots=True)
class Constants:
    """Texts that stand in a template: those it may add to a chat, and those it looks for in one."""

    added: tuple[str, ...]
    sought: tuple[str, ...]


def constants(where: Path, template: str) -> Constants:
    """All, each once, in order; nothing is rendered. TemplateFault, which names `where`, for what is no Jinja."""

    def texts(node: nodes.Node, sought: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, nodes.TemplateData):
            yield node.data, False
        elif isinstance(node, nodes.Const) and isinstance(node.value, str):
            yield node.value, sought
        elif isinstance(node, nodes.Getitem):
            yield from texts(node.node, sought)
        else:
            for child in node.iter_child_nodes():
                yield from texts(child, sought or isinstance(node, nodes.Compare))

    try:
        found = list(texts(render_process.environment().parse(template), False))
    except TemplateSyntaxError as error:
        raise TemplateFault(where, "syntax", str(error)) from error
    return Constants(_distinct(t for t, sought in found if not sought), _distinct(t for t, sought in found if sought))


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))


def _settings(model_dir: Path) -> dict[str, Any]:
    path = model_dir / "tokenizer_config.json"
    return read_json(path) if path.exists() else {}


def _content(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token)


def _require_size(path: Path, size: int) -> None:
    if size > MAX_TEMPLATE:
        raise UsageError(
            f"{path}: found a chat template of {size} bytes, more than {MAX_TEMPLATE}; put the model's own into {FILE}"
        )
