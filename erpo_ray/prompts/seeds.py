"""The embedded prompts: `seeds` (harmful prompts with benign look-alikes, by risk category) and `everyday` (benign)."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from typing import Any

import msgspec

NAMES = ("seeds", "everyday")


def rows(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of an embedded set, each with its place `FILE:LINE`, in the order of the files.

    Fields: id, prompt, label, category, topic, twin (id of the prompt with the same words and the opposite intent),
    split (`train` or `evaluate`; whole topics are held apart).
    """
    folder = resources.files("erpo_ray.prompts") / "seeds"
    files = sorted(entry.name for entry in folder.iterdir() if (entry.name == "everyday.jsonl") == (name == "everyday"))
    for file in files:
        for number, line in enumerate((folder / file).read_text("utf-8").splitlines(), 1):
            yield f"{file}:{number}", msgspec.json.decode(line)
