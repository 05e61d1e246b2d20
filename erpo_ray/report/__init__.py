"""The report: one self-contained HTML page of a run directory, finished or going on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from erpo_ray.errors import EnvironmentFault, ErpoError, UsageError
from erpo_ray.report.page import render
from erpo_ray.report.read import read
from erpo_ray.rundir import Files, RunDir

PAGE = "report.html"


def write(run: Path, out: Path, redact: bool = False) -> None:
    """Write the page of a run into `out`: the old page, or the new one whole.

    UsageError when the run has nothing to report yet, or `out` cannot be written.
    """
    page = render(read(run), redact).encode()
    try:
        Files().put(out, page)
    except EnvironmentFault as fault:
        raise UsageError(f"{out}: cannot be written ({fault.__cause__}); name another file with -o") from fault


def refresh(run: RunDir, note: Callable[[str], None]) -> None:
    """Bring `report.html` of a run up to date, once its base model is evaluated.

    What is wrong with the run directory is told to `note`: it must not end the run.
    """
    if not (run.path / "stages" / "base" / "evaluation.json").exists():
        return
    try:
        run.publish(PAGE, render(read(run.path)).encode())
    except ErpoError as error:
        note(f"{PAGE} is out of date: {error}")
