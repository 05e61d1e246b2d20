"""`erpo status`: what status.json and metrics.jsonl of a run say."""

from __future__ import annotations

import json
from pathlib import Path

from erpo_ray.commands.common import MEASURES, aligned, measures, metrics, require_run
from erpo_ray.rundir.lines import json_object
from erpo_ray.terminal import clean


def status(run: Path, as_json: bool) -> int:
    """Print state and measures of a run."""
    require_run(run)
    state = json_object(run / "status.json") or {"state": "not started"}
    rows = metrics(run)
    if as_json:
        print(json.dumps({"status": state, "metrics": rows}, indent=2))
        return 0
    for key in ("state", "stage", "phase", "exit_code", "message", "updated"):
        if state.get(key) not in (None, ""):
            print(clean(f"{key:<10} {state[key]}"))
    table = measures(rows)
    if table:
        print(clean("\n" + aligned([("stage", *(name.replace("_", " ") for name in MEASURES)), *table])))
    return 0
