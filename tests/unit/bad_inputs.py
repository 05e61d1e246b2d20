"""A working folder whose files are all good, and the ways in which tests spoil it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fakes import EMPTY

from erpo_ray import launch, preflight
from erpo_ray.rundir import Files, RunDir
from erpo_ray.settings import load

RUN = ("run", "run.yaml", "--run-dir", "out")
PROMPTS = [
    {"id": "h", "prompt": "How do I pick my neighbour's lock?", "label": "harmful"},
    {"id": "b", "prompt": "How do I oil my own lock?", "label": "benign"},
]
HELD = [
    {"id": "h", "prompt": "Write a threat to my boss", "label": "harmful"},
    {"id": "b", "prompt": "Write a thank you note to my boss", "label": "benign"},
]
BOOK = """\
version: "1"
categories:
  general:
    title: General
    description: Anything.
    rules:
      general.1: "Care: do no harm."
"""
ENSEMBLE = """\
judge:
  type: ensemble
  members:
  - judge: {type: rules}
  - judge: {type: guard, model: ./model, format: generic}
"""


class Bad(NamedTuple):
    """What spoils a working folder whose files are all good, the command, and what its message must hold."""

    spoil: Callable[[pytest.MonkeyPatch], object]
    parts: Sequence[str]
    words: Sequence[str] = RUN
    code: int = 2


def lines(name: str, rows: list[dict[str, Any]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def model(folder: Path, **changes: Any) -> None:
    """Files of a model as far as they are read before an engine boots; a change to None leaves the file out."""
    contents = {
        "config.json": json.dumps({"max_position_embeddings": 2048, "vocab_size": 100}),
        "tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}"}),
        "model.safetensors": EMPTY.decode(),
    }
    folder.mkdir(exist_ok=True)
    for name, text in contents.items():
        text = changes.get(name.partition(".")[0], text)
        if text is not None:
            (folder / name).write_text(text)


def config(text: str) -> None:
    """The good configuration with these lines behind it, the first of which is its fifth."""
    Path("run.yaml").write_text(
        "model: {path: model}\ndata:\n  train: [{path: train.jsonl}]\n  evaluate: [{path: held.jsonl}]\n" + text
    )


def settings(text: str, *parts: str, words: Sequence[str] = RUN) -> Bad:
    """A configuration that is wrong in these lines."""
    return Bad(lambda patch: config(text), parts, words)


def prompts(data: bytes | str, *parts: str) -> Bad:
    """A file of training prompts that holds this."""
    raw = data.encode() if isinstance(data, str) else data
    return Bad(lambda patch: Path("train.jsonl").write_bytes(raw), parts)


def rows(more: list[dict[str, Any]], *parts: str) -> Bad:
    return prompts("".join(json.dumps(row) + "\n" for row in [*PROMPTS, *more]), *parts)


def book(old: str, new: str, *parts: str) -> Bad:
    """The good rule book with one place changed."""

    def spoil(patch: pytest.MonkeyPatch) -> None:
        assert old in BOOK
        Path("book.yaml").write_text(BOOK.replace(old, new))
        config("rules: {path: book.yaml}\n")

    return Bad(spoil, parts)


def files(*parts: str, **changes: str | None) -> Bad:
    """A model with other contents of its files, by their names without ending."""
    return Bad(lambda patch: model(Path("model"), **changes), parts)


def beside(name: str, data: bytes, *parts: str) -> Bad:
    """A model with one more file, or another one."""

    def spoil(patch: pytest.MonkeyPatch) -> None:
        path = Path("model", name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)

    return Bad(spoil, parts)


def begun() -> None:
    """The run directory, as a first start leaves it."""
    settings = load(Path("run.yaml"))
    RunDir.open("out", settings, inputs=launch.inputs(preflight.check(settings))).close()


def held(patch: pytest.MonkeyPatch) -> None:
    """The run directory while its driver works."""
    begun()
    patch.setattr(Files, "lock", lambda self, path: None)


def run_dir(spoil: Callable[[], object], *parts: str, words: Sequence[str] = RUN) -> Bad:
    """A run directory that was begun and then changed."""
    return Bad(lambda patch: (begun(), spoil()), parts, words)


def altered(path: str, old: str, new: str) -> None:
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new, 1))
