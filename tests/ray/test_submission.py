"""A run handed to a real dashboard: taken once, found again, followed to its end, started anew after a failure."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from erpo_ray.cluster import submission
from erpo_ray.config import Config, Model


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """Address of the dashboard of a small cluster of this process."""
    import ray

    assert not ray.is_initialized()
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="erpo-", dir="/tmp") as folder,
    ):
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        # A job's `python` is the cluster's; here it is that of these tests, whether or not their environment is active.
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
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


CALLS = [
    ("GET", "/api/jobs/"), ("POST", "/api/jobs/"), ("PUT", "/api/jobs/"), ("DELETE", "/api/jobs/any"),
    ("POST", "/api/jobs/any/stop"), ("PUT", "/api/packages/gcs/any.zip"), ("GET", "/nodes?view=summary"),
    ("GET", "/api/v0/nodes"), ("PUT", "/api/serve/applications/"), ("DELETE", "/api/serve/applications/"),
]  # fmt: skip
BROWSER = {"User-Agent": "Mozilla/5.0", "Origin": "http://evil.example", "Sec-Fetch-Mode": "no-cors"}
STRANGERS = [
    {},
    {"Authorization": "Bearer " + "0" * 64},
    {"X-Ray-Authorization": "Bearer " + "0" * 64},
    {"Cookie": "ray-authentication-token=" + "0" * 64},
    {"Host": "evil.example", "Origin": "http://evil.example"},
    {"Host": "localhost", "X-Forwarded-For": "127.0.0.1", **BROWSER},
]


def test_a_stranger_at_the_dashboard_starts_stops_and_reads_nothing(dashboard: str, tmp_path: Path) -> None:
    """No token, a wrong one, and names and origins that a browser would send whose name server was turned."""
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    made = tmp_path / "made"
    job = {"entrypoint": f"touch {made}", "submission_id": "strange"}
    token = get_auth_headers_if_auth_enabled({})
    with httpx2.Client(base_url=dashboard, timeout=30) as client:
        for headers in STRANGERS:
            for method, path in CALLS:
                said = client.request(method, path, headers=headers, json=job)
                assert said.status_code in (401, 403), (method, path, headers, said.status_code)
        # The token that a browser keeps does not make its page's requests ours.
        for method, path in CALLS:
            if method != "GET":
                assert client.request(method, path, headers=token | BROWSER, json=job).status_code == 405, (
                    method,
                    path,
                )
        jobs = client.get("/api/jobs/", headers=token)
    assert jobs.status_code == 200 and "strange" not in jobs.text and not made.exists()
    print(f"dashboard: {len(CALLS)} calls of {len(STRANGERS)} strangers, 0 answered")
