"""A model directory whose chat template begins every chat with a system prompt of its own: what SoS hands on."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from erpo_ray.engines.renderer import Renderer, SystemRenderer

SYSTEM = "system_prompt.txt"
"""Beside the model: the system prompt as plain text."""


def instruct(source: Path, system: str, out: Path) -> None:
    """The model of `source` in `out`, asked under `system` wherever a chat brings no system prompt of its own.

    Weights are links where the file system has them. An empty `system` leaves the template as it is.
    """
    shutil.copytree(source, out, copy_function=_linked, dirs_exist_ok=True)
    (out / SYSTEM).write_text(system)
    if not system:
        return
    template = out / "chat_template.jinja"
    text = prefixed(Renderer(source).template, system, SystemRenderer(source, system).separate)
    template.unlink(missing_ok=True)  # else the text would go through the link into the source
    template.write_text(text)
    settings = out / "tokenizer_config.json"
    found = json.loads(settings.read_text())
    found.pop("chat_template", None)
    settings.unlink()
    settings.write_text(json.dumps(found, indent=2))


def prefixed(template: str, system: str, separate: bool) -> str:
    """A chat template that puts `system` before chats without one, in the user's message unless `separate`."""
    # As it is: Jinja reads the two halves of an escaped character beyond the first plane apart.
    said = json.dumps(system, ensure_ascii=False)
    if separate:
        first = f"[{{'role': 'system', 'content': {said}}}] + messages"
    else:
        joined = f"{said} + '\\n\\n' + messages[0]['content']"
        first = f"[{{'role': 'user', 'content': {joined}}}] + messages[1:]"
    return f"{{% if messages[0]['role'] != 'system' %}}{{% set messages = {first} %}}{{% endif %}}{template}"


def _linked(source: str, target: str) -> str:
    """Weights by a hard link, all else by a copy."""
    if Path(source).suffix != ".safetensors":
        return shutil.copy2(source, target)
    os.link(os.path.realpath(source), target)
    return target
