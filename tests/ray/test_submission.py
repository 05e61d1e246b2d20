"""A run handed to a real dashboard that wants a token: refused without, taken once, found again, followed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from erpo_ray.cluster import submission
from erpo_ray.config import Config, Model
from erpo_ray.errors import EnvironmentFault


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Address of the dashboard of a small cluster of this process."""
    import ray

    assert not ray.is_initialized()
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    with tempfile.TemporaryDirectory(prefix="erpo-", dir="/tmp") as folder:
        context = ray.init(num_cpus=1, include_dashboard=True, log_to_driver=False, _temp_dir=folder)
        try:
            yield f"http://{context.dashboard_url}"
        finally:
            ray.shutdown()


def test_a_run_goes_to_a_real_dashboard_once(dashboard: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_door_that_is_shut_is_told_as_such() -> None:
    with pytest.raises(EnvironmentFault, match="no dashboard answers at http://127.0.0.1:9"):
        submission.find("/run", "http://127.0.0.1:9")
