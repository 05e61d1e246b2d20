"""The prompts that an evaluation asked: from the run directory, else read again from where the configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from erpo_ray import rules
from erpo_ray.config import Data
from erpo_ray.errors import UsageError
from erpo_ray.prompts import files, mixing, seeds
from erpo_ray.rundir import read_rows
from erpo_ray.types import Prompt, encode, identity


def evaluation_prompts(run: Path, settings: Mapping[str, Any], expected: str) -> tuple[dict[str, Prompt], str]:
    """Prompts by id, and why there are none.

    `expected` is their hash in the fingerprint of the run: other prompts than those that were asked are not shown.
    Nothing is fetched from a network.
    """
    held = run / "stages" / "base" / "prompts.jsonl"
    if held.exists():
        return {prompt.id: prompt for prompt in read_rows(held, Prompt)}, ""
    try:
        found = _again(settings)
    except (UsageError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        return {}, f"The run directory does not hold the evaluation prompts, and they cannot be read again: {reason}"
    if identity(*map(encode, found)) != expected:
        return {}, "The prompt files changed since the run, so that texts and labels of its prompts are not known."
    return {prompt.id: prompt for prompt in found}, ""


def _again(settings: Mapping[str, Any]) -> tuple[Prompt, ...]:
    data = Data.model_validate(settings.get("data", {})).model_copy(update={"train": ()})
    for source in data.evaluate:
        if source.path not in seeds.NAMES and not files.resolve(source.path, data.root):
            raise UsageError(f"{source.path} is a data set of the hub")
    book = rules.load(settings.get("rules", {}).get("path", ""))
    return mixing.gather(data, tuple(book.categories), settings.get("seed", 0)).evaluate
