"""`erpo run`: read the configuration, then hand over to the launcher."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from erpo_ray.commands.common import read_config
from erpo_ray.config import Config
from erpo_ray.endings import terminable
from erpo_ray.errors import UsageError


def run(path: Path, overrides: Sequence[str], run_dir: Path | None) -> int:
    """Run or continue. Returns the exit code."""
    config = read_config(path, overrides)
    where = run_dir or default_dir(config)
    with terminable():
        from erpo_ray import launch

        return launch.run(config, where)


def synthesize(path: Path, overrides: Sequence[str], run_dir: Path | None) -> int:
    """As `run`, up to the examples of the first stage."""
    config = read_config(path, overrides)
    where = run_dir or default_dir(config)
    with terminable():
        from erpo_ray import launch

        return launch.synthesize(config, where)


def default_dir(config: Config) -> Path:
    """`runs/NAME`; the name cannot lead out of `runs`."""
    if not re.fullmatch(r"\w[\w.-]*", config.name):
        raise UsageError(
            f"key `name`: found {config.name!r} (text); use letters, digits, `-`, `_` and `.`, or --run-dir"
        )
    return Path("runs") / config.name
