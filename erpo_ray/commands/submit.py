"""`erpo submit`: a run as a job of a Ray cluster elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from erpo_ray.commands.common import read_config
from erpo_ray.terminal import clean


def submit(path: Path, overrides: Sequence[str], run_dir: str, address: str) -> int:
    """Hand the run over, once."""
    config = read_config(path, overrides)
    from erpo_ray.cluster import submission

    job, new = submission.submit(config, run_dir, address)
    if new:
        print(clean(f"submitted: {job.id}"))
    else:
        print(clean(f"already there: {job.id} is {job.status}; nothing was submitted"))
    print(clean(f"next: erpo tail {run_dir} --address {submission.dashboard(address)}"))
    return 0
