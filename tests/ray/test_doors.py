"""A run on this machine alone, with an engine and two ranks at work: what another host or user could reach."""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import tiny

from erpo_ray.cluster import doors, training
from erpo_ray.cluster.start import Joined, join, leave
from erpo_ray.config import Cluster
from erpo_ray.engines.vllm import Engine, EngineSettings

CLUSTER = Cluster(train_workers=2)
SETTINGS = EngineSettings(max_length=128, in_flight=4, kv_cache_gib=0.1)
PATIENCE_S = 300.0


class Rollout:
    """An engine that has computed something."""

    def __init__(self, model: Path) -> None:
        self._engine = Engine(model, "v", SETTINGS)

    def pid(self) -> int:
        assert len(self._engine.logprobs((5, 6), (7,))) == 1
        return os.getpid()


def ranks(config: dict[str, Any]) -> None:
    """What the ranks add up to, in a file of each beside its pid; they stay until a file `over` lies there too."""
    import torch
    from torch import distributed

    folder: Path = config["desk"]
    total = torch.tensor([float(distributed.get_rank() + 1)])
    distributed.all_reduce(total)
    (folder / f"rank-{distributed.get_rank()}").write_text(f"{os.getpid()} {total.item()}")
    while not (folder / "over").exists():
        time.sleep(0.1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home in which the token that was there lay open, and an environment that asks for none."""
    here = Path(__file__).parent
    inherited = os.pathsep.join(map(str, [here, here.parents[1], os.environ.get("PYTHONPATH", "")]))
    folder = tmp_path_factory.mktemp("home")
    (folder / ".ray").mkdir()
    (folder / ".ray" / "auth_token").write_text("a" * 64)
    (folder / ".ray" / "auth_token").chmod(0o644)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", inherited)
        patch.setenv("HOME", str(folder))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setattr(training, "loop", ranks)
        yield folder
    doors.forget_token()


@pytest.fixture(scope="module")
def joined(home: Path) -> Iterator[Joined]:
    found = join(CLUSTER)
    try:
        yield found
    finally:
        leave(found)


@pytest.fixture(scope="module")
def busy(joined: Joined, smol: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[psutil.Process]]:
    """All processes of a run in which an engine has answered and two ranks have added up."""
    folder = tmp_path_factory.mktemp("ranks")
    engine: Any = ray.remote(num_cpus=0)(Rollout).remote(tiny.speaker(folder / "model", smol))
    group = threading.Thread(target=training.trainer(CLUSTER, joined, folder, folder).fit, daemon=True)
    group.start()
    pids = {ray.get(engine.pid.remote(), timeout=PATIENCE_S)}
    until = time.monotonic() + PATIENCE_S
    while not all((folder / f"rank-{rank}").exists() for rank in range(2)):
        assert group.is_alive() and time.monotonic() < until
        time.sleep(0.2)
    time.sleep(0.5)
    for rank in range(2):
        pid, total = (folder / f"rank-{rank}").read_text().split()
        assert total == "3.0"
        pids.add(int(pid))
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    assert len(pids) == 3 and pids <= {process.pid for process in processes}
    try:
        yield processes
    finally:
        (folder / "over").touch()
        group.join(PATIENCE_S)


def heard(processes: list[psutil.Process]) -> dict[tuple[str, int], str]:
    """Address and port of each socket that takes what others send, and the process that has it."""
    found = {}
    for process in processes:
        for each in process.net_connections("inet"):
            if each.status == psutil.CONN_LISTEN or (each.type == socket.SOCK_DGRAM and each.laddr and not each.raddr):
                found[each.laddr.ip, each.laddr.port] = process.name()
    return found


def outward(sockets: dict[tuple[str, int], str]) -> list[tuple[str, int, str]]:
    """Those of them that are not on loopback."""
    addresses = {(ip, port): ipaddress.ip_address(ip.partition("%")[0]) for ip, port in sockets}
    return [
        (*at, sockets[at])
        for at, address in addresses.items()
        if not (getattr(address, "ipv4_mapped", None) or address).is_loopback
    ]


def test_nothing_of_a_local_run_listens_where_another_host_could_reach_it(busy: list[psutil.Process]) -> None:
    assert {"gcs_server", "raylet"} <= {process.name() for process in busy}
    found = heard(busy)
    assert len(found) > 8 and outward(found) == []
    print(f"local run: {len(busy)} processes, {len(found)} listeners, 0 of them off loopback")


def test_the_search_finds_what_is_open() -> None:
    for address in ("0.0.0.0", "127.0.0.1"):
        with socket.create_server((address, 0)) as server:
            at = outward(heard([psutil.Process()]))
            assert [port for _, port, _ in at] == ([server.getsockname()[1]] if address == "0.0.0.0" else [])


def test_other_users_of_the_machine_reach_neither_its_folder_nor_its_token(joined: Joined, home: Path) -> None:
    assert joined.own is not None and list(joined.own.rglob("plasma_store*"))
    assert stat.S_IMODE(joined.own.stat().st_mode) == 0o700
    token = home / ".ray" / "auth_token"
    assert doors.token_file() == token and stat.S_IMODE(token.stat().st_mode) == 0o600


def test_who_shows_no_token_is_refused(joined: Joined) -> None:
    """The environment, which asked for no tokens, was not heeded."""
    address = ray.get_runtime_context().gcs_address
    assert address.startswith("127.0.0.1:")
    program = f"import ray._raylet as r; print(len(r.GcsClient(address={address!r}).get_all_node_info(timeout=10)))"
    shown, bare = (
        subprocess.run(
            [sys.executable, "-c", program], env=os.environ | mode, capture_output=True, text=True, timeout=60
        )
        for mode in ({"RAY_AUTH_MODE": "token"}, {"RAY_AUTH_MODE": "disabled"})
    )
    assert shown.stdout == "1\n", shown.stderr
    assert bare.returncode != 0 and bare.stdout == "" and "Unauthenticated" in bare.stderr
