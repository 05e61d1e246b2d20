"""configs/cluster/on_premise.yaml put to use: `ray up` over SSH to three hosts, a real run as a job, `ray down`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hosts import Host, hosts, listening, ssh, why_not
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "cluster" / "on_premise.yaml"
GCS, DASHBOARD = 6379, 8265
WAIT_S = 180.0

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that is up, what the launcher was given, and the folder that all hosts see."""

    head: Host
    workers: Sequence[Host]
    config: Path
    shared: Path

    def ray(self, *arguments: str, token: bool = True) -> subprocess.CompletedProcess[str]:
        """A command of `ray` on the head, through its door."""
        auth = "RAY_AUTH_MODE=token" if token else "RAY_AUTH_MODE=disabled"
        line = f"cd ~/erpo_ray && {auth} RAY_USAGE_STATS_ENABLED=0 ~/erpo_venv/bin/ray {' '.join(arguments)}"
        return subprocess.run(ssh(self.head, line), capture_output=True, text=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three hosts under the launcher. Their packages are those of these tests: installing is not what is tested."""
    with tempfile.TemporaryDirectory(prefix="erpo-hosts-", dir="/var/tmp") as name:
        folder, home = Path(name), Path(name) / "home"
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        (home / ".ray").mkdir()
        with hosts(3, folder) as (head, *workers):
            for host in (head, *workers):
                (host.home / "erpo_venv").symlink_to(sys.prefix)
            config = folder / "cluster.yaml"
            _write(config, head, workers, home)
            # The launcher and its ssh look for keys and caches in the home of whoever runs them.
            mine = os.environ | {"HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
            ray = str(Path(sys.executable).parent / "ray")
            _ran([ray, "get-auth-token", "--generate"], mine)
            _ran([ray, "up", "-y", str(config)], mine)
            found = Cluster(head, workers, config, folder)
            try:
                _until_complete(found)
                yield found
            finally:
                _ran([ray, "down", "-y", str(config)], mine)
            _until_gone([head, *workers])


def test_a_run_goes_through_as_a_job(cluster: Cluster) -> None:
    run = cluster.shared / "run"
    settings = [
        "rounds.count=0", "imitate.fit.max_steps=1", "imitate.benign=4", "imitate.harmful=4",
        "imitate.harmful_intents=0", "imitate.benign_intents=0", "imitate.draw.max_tokens=16", "prefer.prompts=2",
        "prefer.draw.max_tokens=16", "evaluate.max_tokens=16", "evaluate.per_source=1", "judge.max_failure_rate=1.0",
    ]  # fmt: skip
    given = f"jobs/train.py configs/tiny.yaml --run-dir {run} model.path={_model()} {' '.join(settings)}"
    job = cluster.ray("job", "submit", "--working-dir", ".", "--", "~/erpo_venv/bin/python", given)
    assert (run / "status.json").exists(), job.stdout + job.stderr
    status = json.loads((run / "status.json").read_text())
    # So little training leaves no pairs worth the name: stage 1 is to end, whatever becomes of stage 2.
    assert (run / "stages" / "00-imitate" / "stage.json").exists(), job.stdout + job.stderr
    assert status["state"] != "running", job.stdout


def test_nothing_is_open_that_needs_no_token(cluster: Cluster) -> None:
    open_to_others = [port for address, port in listening(cluster.head) if not address.startswith("127.")]
    assert 22 in open_to_others and GCS in open_to_others
    assert DASHBOARD not in open_to_others
    assert cluster.ray("status").returncode == 0
    refused = cluster.ray("status", token=False)
    assert refused.returncode != 0 and "token" in (refused.stdout + refused.stderr).lower()


def test_another_host_gets_nothing_from_any_open_port(cluster: Cluster) -> None:
    """What a stranger on the same network can do: connect, say something, and be told nothing of the cluster."""
    stranger = cluster.workers[0]
    for address, port in listening(cluster.head):
        if address.startswith("127.") or port == 22:
            continue
        probe = f"exec 3<>/dev/tcp/{cluster.head.address}/{port}; printf 'GET /api/jobs/ HTTP/1.0\\r\\n\\r\\n' >&3"
        said = stranger.run("timeout", "5", "bash", "-c", f"{probe}; cat <&3")
        assert "submission_id" not in said.stdout and "entrypoint" not in said.stdout, port


def _write(config: Path, head: Host, workers: Sequence[Host], home: Path) -> None:
    """The project's file, with what it asks a user to put in."""
    yaml = YAML(typ="safe")
    found = yaml.load(CONFIG)
    found["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address for worker in workers]}
    found["auth"] = {"ssh_user": "root", "ssh_private_key": str(head.key)}
    found["file_mounts"] = {"~/erpo_ray": str(ROOT), "~/.ray/auth_token": str(home / ".ray" / "auth_token")}
    found["setup_commands"] = [each for each in found["setup_commands"] if "install.sh" not in each]
    with config.open("w") as stream:
        yaml.dump(found, stream)


def _until_complete(cluster: Cluster) -> None:
    until, expected = time.monotonic() + WAIT_S, 1 + len(cluster.workers)
    while True:
        listed = cluster.ray("list", "nodes", "--format", "json")
        alive = [node for node in json.loads(listed.stdout or "[]") if node["state"] == "ALIVE"]
        if len(alive) == expected:
            return
        assert time.monotonic() < until, f"{len(alive)} of {expected} nodes: {listed.stdout}{listed.stderr}"
        time.sleep(2)


def _until_gone(hosts: Sequence[Host]) -> None:
    """A raylet ends some time after it has lost its head."""
    until = time.monotonic() + WAIT_S
    while left := [host.name for host in hosts if host.run("pgrep", "-f", "raylet/raylet").stdout]:
        assert time.monotonic() < until, f"ray down left processes on {left}"
        time.sleep(2)


def _model() -> Path:
    from erpo_ray.engines.models import materialise

    return materialise("smollm2-135m-instruct")


def _ran(command: Sequence[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
