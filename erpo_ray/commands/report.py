"""`erpo report`: one HTML page of a run, to read and to share."""

from __future__ import annotations

from pathlib import Path

from erpo_ray.commands.common import require_run
from erpo_ray.errors import UsageError

REDACTED = "report-redacted.html"
"""A page of its own: a run that goes on writes `report.html` anew, with all texts."""


def report(run: Path, output: Path | None, redact: bool) -> int:
    """Write the page; with `redact` no text of a harmful prompt, and no answer to one, is in it."""
    require_run(run)
    from erpo_ray.report import PAGE, write

    out = output or run / (REDACTED if redact else PAGE)
    if not out.absolute().parent.is_dir():
        raise UsageError(f"{out}: no folder {out.parent}; create it first")
    write(run, out, redact)
    print(f"report: {out} ({out.stat().st_size / 1e6:.2f} MB)")
    return 0
