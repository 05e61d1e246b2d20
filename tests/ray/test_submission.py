"""A run handed to a real dashboard: taken once, found again, followed to its end, started anew after a failure."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from erpo_ray.cluster import submission
from erpo_ray.config import Config, Model


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of the dashboard of a small cluster of this process."""
    import ray

    assert not ray.is_initialized()
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    # A job's `python` is the cluster's; here it is that of these tests, whether or not their environment is active.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    with tempfile.TemporaryDirectory(prefix="erpo-", dir="/tmp") as folder:
        context = ray.init(num_cpus=1, include_dashboard=True, log_to_driver=False, _temp_dir=folder)
        try:
            yield f"http://{context.dashboard_url}"
        finally:
            ray.shutdown()


def test_a_run_goes_to_a_real_dashboard_once(dashboard: str, tmp_path: Path) -> None:
    config = Config(name="mine", model=Model(path=str(tmp_path / "no model")))
    where = str(tmp_path / "run")
    job, new = submission.submit(config, where, dashboard)
    again, new_again = submission.submit(config, where, dashboard)
    assert (new, new_again, again.id) == (True, False, job.id)

    lines: list[str] = []
    ended = submission.follow(where, dashboard, lines.append)
    # Exit code 2 of `erpo run`, with its message: the configuration arrived, and the command was what was run.
    assert (ended.id, ended.status) == (job.id, "FAILED")
    assert any("no model" in line for line in lines)
    assert submission.last_lines(ended, dashboard)[-1].startswith("erpo: ")
    assert not os.path.exists(where)

    third, _ = submission.submit(config, where, dashboard)
    assert third.id == job.id[:-1] + "2"
    assert submission.find(where, dashboard).id == third.id
