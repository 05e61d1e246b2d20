"""What a local run's cluster is told before it starts, without starting it; `tests/ray/test_doors.py` looks at one."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from erpo_ray.cluster import doors

# In a process of its own: what Ray has read of tokens it keeps.
PROGRAM = """
import json, os, sys
from ray._private import ray_constants, services
from ray._private.authentication import http_token_authentication as shown
from erpo_ray.cluster import doors
names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "VLLM_HOST_IP")
told = []
def tell():
    told.append([os.environ.get(name) for name in names] + [ray_constants.ENABLE_RAY_CLUSTER])
tell()
try:
    with doors.shut() as address:
        tell()
        told.append([address, services.resolve_ip_for_localhost(address)])
        raise KeyboardInterrupt
except KeyboardInterrupt:
    tell()
print(json.dumps([told, os.environ["RAY_AUTH_MODE"], shown.get_auth_headers_if_auth_enabled({})]))
"""


def shut(home: Path, **environment: str) -> Any:
    """What a process saw before, within and after; its mode of authentication and what it shows."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    given |= {"HOME": str(home), "RAY_AUTH_MODE": "disabled", "GLOO_SOCKET_IFNAME": "eth7", **environment}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_cluster_is_told_of_loopback_and_this_process_is_as_it_was(tmp_path: Path) -> None:
    (before, within, address, after), auth, header = shut(tmp_path)
    assert before == after == ["eth7", None, None, True]
    assert within == ["lo", "lo", "127.0.0.1", False]
    assert address == ["127.0.0.1", "127.0.0.1"]
    token = tmp_path / ".ray" / "auth_token"
    assert auth == "token" and list(header.values()) == [f"Bearer {token.read_text()}"]
    assert len(token.read_text()) == 64 and (mode(token), mode(token.parent)) == (0o600, 0o700)
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]


def test_a_token_that_is_given_is_not_looked_for(tmp_path: Path) -> None:
    _, auth, header = shut(tmp_path, RAY_AUTH_TOKEN="c" * 64)
    assert auth == "token" and list(header.values()) == [f"Bearer {'c' * 64}"]
    assert not (tmp_path / ".ray").exists()


@pytest.mark.parametrize("found", [0o644, 0o666, 0o600])
def test_a_token_that_is_there_stays_and_is_shut(tmp_path: Path, found: int) -> None:
    token = tmp_path / "auth_token"
    token.write_text("a" * 64)
    token.chmod(found)
    doors._keep(token)
    assert (token.read_text(), mode(token)) == ("a" * 64, 0o600)


def test_of_two_runs_that_make_a_token_at_once_the_first_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, link = tmp_path / "auth_token", os.link

    def late(made: Path, path: Path) -> None:
        path.write_text("a" * 64)
        link(made, path)

    monkeypatch.setattr(doors.os, "link", late)
    doors._keep(token)
    assert token.read_text() == "a" * 64 and [path.name for path in tmp_path.iterdir()] == ["auth_token"]


class Group:
    """Two ranks that note where they are told to meet."""

    def __init__(self) -> None:
        self.met: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return 2

    def execute(self, *_: object) -> None: ...

    def execute_single_async(self, rank: int, call: object, **told: Any) -> None:
        self.met.append(told)


def test_ranks_of_one_machine_meet_in_a_file_that_is_new_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from erpo_ray.cluster import meeting

    monkeypatch.setattr(meeting.ray, "get", list)
    config, group = meeting.Meeting("gloo", folder=str(tmp_path)), Group()
    for _ in range(2):
        config.backend_cls().on_start(group, config)
    assert [(told["world_rank"], told["world_size"], told["backend"]) for told in group.met[:2]] == [
        (0, 2, "gloo"),
        (1, 2, "gloo"),
    ]
    places = [told["init_method"] for told in group.met]
    assert places[0] == places[1] != places[2] == places[3]
    assert all(place.startswith(f"file://{tmp_path}/ranks-") for place in places)
