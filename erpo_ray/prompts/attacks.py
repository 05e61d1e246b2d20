"""Jailbreak wrappers around prompts, and harmless ones in the same manner, so that a wrapper alone means nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal

import msgspec

from erpo_ray.errors import UsageError
from erpo_ray.prompts import files
from erpo_ray.types import Prompt, seed_of

SLOT = "{prompt}"


@dataclass(frozen=True, slots=True)
class Template:
    """A text around `{prompt}`. `label` is the label of the prompts it is meant for, `split` its half, if any."""

    id: str
    text: str
    label: str = ""
    split: str = ""


def load(name: str, root: str = "", split: Literal["train", "evaluate"] | None = None) -> list[Template]:
    """Templates of `embedded` or of a file with a column `prompt` that holds `{prompt}`.

    Rows that carry a `split` are kept when it is the one asked for. Raises UsageError `FILE:LINE: ...`.
    """
    if name == "embedded":
        text = (resources.files("erpo_ray.prompts") / "attacks.jsonl").read_text("utf-8")
        found = [
            (f"attacks.jsonl:{number}", msgspec.json.decode(line)) for number, line in enumerate(text.splitlines(), 1)
        ]
    else:
        found = [row for path in files.resolve(name, root) for row in files.read_file(path)]
    templates = [_template(place, row) for place, row in found]
    kept = [template for template in templates if split is None or template.split in ("", split)]
    if not kept:
        raise UsageError(f"{name}: found no attack template{f' for {split}' if split else ''}; give a file with some")
    return kept


def wrap(prompts: Sequence[Prompt], templates: Sequence[Template], seed: int, repeat: int = 1) -> list[Prompt]:
    """Each prompt in `repeat` different templates, chosen by seed and prompt alone.

    Templates of the prompt's own label are used where there are any, else all. The slot is replaced as text: other
    braces stay. Ids are `PROMPT~TEMPLATE`; wrapped prompts have no twin.
    """
    out: list[Prompt] = []
    for prompt in prompts:
        fitting = [template for template in templates if template.label == prompt.label] or list(templates)
        if repeat > len(fitting):
            raise UsageError(
                f"repeat: found {repeat}, but only {len(fitting)} templates fit {prompt.label} prompts; lower it"
            )
        fitting.sort(key=lambda template: seed_of(seed, prompt.id, template.id))
        out += [_wrapped(prompt, template) for template in fitting[:repeat]]
    return out


def _wrapped(prompt: Prompt, template: Template) -> Prompt:
    text = template.text.replace(SLOT, prompt.text)
    name = f"{prompt.id}~{template.id}"
    return Prompt(name, text, prompt.label, prompt.category, prompt.topic, "", prompt.source)


def _template(place: str, row: dict[str, object]) -> Template:
    text = row.get("prompt")
    if not isinstance(text, str) or SLOT not in text:
        raise UsageError(f"{place}: prompt: found no {SLOT} in the template; put it where the request goes")
    return Template(str(row.get("id") or place), text, str(row.get("label") or ""), str(row.get("split") or ""))
