"""`erpo sweep`: read the rows, then play them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from erpo_ray.commands.run import default_dir
from erpo_ray.endings import terminable


def sweep(path: Path, overrides: Sequence[str], run_dir: Path | None, adopt: Sequence[Path] = ()) -> int:
    """Perform or continue; rows may take sealed stages from the runs in `adopt`. Returns the exit code."""
    from erpo_ray.methods import METHODS
    from erpo_ray.sweep import rows

    found = rows.load(path, overrides, tuple(METHODS))
    where = run_dir or default_dir(found.common)
    with terminable():
        from erpo_ray.sweep.play import play

        play(found, where, elsewhere=adopt)
    return 0
