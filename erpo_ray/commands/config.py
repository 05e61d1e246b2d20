"""`erpo config show` and `erpo config schema`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from erpo_ray import settings
from erpo_ray.commands.common import read_config
from erpo_ray.terminal import clean


def show(path: Path, overrides: Sequence[str]) -> int:
    """Print `key: value  # source`, one line a value, in the order of the tree."""
    read_config(path, overrides)
    lines = [(f"{row.key}: {json.dumps(row.value)}", row.source) for row in settings.sources(path, overrides)]
    width = min(60, max(len(text) for text, _ in lines))
    for text, source in lines:
        print(clean(f"{text:<{width}}  # {source}"))
    return 0


def schema() -> int:
    print(json.dumps(settings.schema(), indent=2))
    return 0
