"""Several hosts on one machine: network namespaces joined by a bridge, each with processes, /tmp and home of its own.

All see the same files elsewhere, as machines with a shared folder do. Wants root, `ip`, `sshd` and `rsync`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

NET = "10.213.77"
BRIDGE = "erpo-br"
TOOLS = ("ip", "unshare", "nsenter", "rsync", "ssh", "ssh-keygen", "/usr/sbin/sshd")
LOCK = Path("/run/erpo-hosts.lock")
START_S = 20.0

# /etc/passwd and /etc/hosts are bound over in the host's own mount namespace: there root has another home, and the
# host's name leads to its address.
BOOT = """
set -eu
mount -t tmpfs tmpfs /tmp
mount --bind {folder}/passwd /etc/passwd
mount --bind {folder}/hosts /etc/hosts
echo {name} > /proc/sys/kernel/hostname
mkdir -p /run/sshd
exec /usr/sbin/sshd -D -e -f {folder}/sshd_config
"""


def why_not() -> str:
    """What is missing to make hosts; empty when they can be made."""
    if os.geteuid():
        return "only root makes network namespaces"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    made = subprocess.run(["ip", "netns", "add", "erpo-probe"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", "erpo-probe"], capture_output=True)
    return made.stderr.strip()


@dataclass(frozen=True, slots=True)
class Host:
    """`pid` is that of its first process, without which it has none; `key` opens its root account over SSH."""

    name: str
    address: str
    home: Path
    key: Path
    pid: int

    def within(self, *command: str) -> Sequence[str]:
        """The command line that runs this on the host, from within: no door is passed."""
        return ["nsenter", "-t", str(self.pid), "-n", "-m", "-p", "-u", "--", "env", f"HOME={self.home}", *command]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command on the host, to its end."""
        return subprocess.run(self.within(*command), capture_output=True, text=True, errors="replace")

    def unplug(self) -> None:
        """Its link goes down, as when a cable is pulled: nobody is told."""
        _must("ip", "link", "set", f"{self.name}-o", "down")

    def plug(self) -> None:
        _must("ip", "link", "set", f"{self.name}-o", "up")

    def kill(self) -> None:
        """All of its processes at once, and its link before, so that no farewell of the kernel gets out."""
        self.unplug()
        os.kill(self.pid, signal.SIGKILL)


@contextmanager
def hosts(count: int, folder: Path) -> Iterator[list[Host]]:
    """`count` hosts that reach each other and this machine (at address .1 of their net), until the block ends."""
    key = folder / "key"
    _must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    with ExitStack() as ends:
        lock = ends.enter_context(LOCK.open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        _sweep()
        _must("ip", "link", "add", BRIDGE, "type", "bridge")
        ends.callback(_must, "ip", "link", "del", BRIDGE)
        _must("ip", "addr", "add", f"{NET}.1/24", "dev", BRIDGE)
        _must("ip", "link", "set", BRIDGE, "up")
        yield [ends.enter_context(_host(number, folder, key)) for number in range(count)]


def _sweep() -> None:
    """Takes away what a killed test run left: with the lock held, no living one has hosts of these names."""
    names = [line.split()[0] for line in _said("ip", "netns", "list") if line.startswith("erpo-")]
    for name in names:
        for pid in _said("ip", "netns", "pids", name):
            os.kill(int(pid), signal.SIGKILL)
        _must("ip", "netns", "del", name)
    links = [line.split()[1].split("@")[0].rstrip(":") for line in _said("ip", "-o", "link")]
    for link in links:
        if link == BRIDGE or (link.startswith("erpo-") and link.endswith("-o")):
            _must("ip", "link", "del", link)


@contextmanager
def _host(number: int, folder: Path, key: Path) -> Iterator[Host]:
    name, address, mine = f"erpo-{number}", f"{NET}.{10 + number}", folder / f"host-{number}"
    home = mine / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    shutil.copy(key.with_suffix(".pub"), home / ".ssh" / "authorized_keys")
    _must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(mine / "host_key"))
    users = Path("/etc/passwd").read_text().splitlines(keepends=True)
    (mine / "hosts").write_text(f"127.0.0.1 localhost\n{address} {name}\n")
    (mine / "passwd").write_text("".join([f"root:x:0:0:root:{home}:/bin/bash\n", *users[1:]]))
    (mine / "sshd_config").write_text(
        f"ListenAddress {address}\nHostKey {mine}/host_key\nPidFile none\nStrictModes no\nUsePAM no\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n"
    )
    with ExitStack() as ends:
        _must("ip", "netns", "add", name)
        ends.callback(_must, "ip", "netns", "del", name)
        _must("ip", "link", "add", f"{name}-o", "type", "veth", "peer", "name", "eth0", "netns", name)
        # The namespace goes some time after the last of its processes.
        ends.callback(_must, "ip", "link", "del", f"{name}-o")
        _must("ip", "link", "set", f"{name}-o", "master", BRIDGE, "up")
        _must("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _must("ip", "-n", name, "link", "set", device, "up")
        inside = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c"]
        with (mine / "log").open("wb") as log:
            boot = subprocess.Popen(
                ["ip", "netns", "exec", name, *inside, BOOT.format(folder=mine, name=name)], stdout=log, stderr=log
            )
        ends.callback(boot.wait)
        ends.callback(boot.send_signal, signal.SIGKILL)
        yield Host(name, address, home, key, _first_process(boot, mine / "log"))


def _first_process(boot: subprocess.Popen[bytes], log: Path) -> int:
    """The pid of the host's sshd, once it listens."""
    until = time.monotonic() + START_S
    while b"Server listening" not in log.read_bytes():
        if boot.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"no SSH server: {log.read_text()}")
        time.sleep(0.05)
    return int(Path(f"/proc/{boot.pid}/task/{boot.pid}/children").read_text().split()[0])


def listening(host: Host) -> list[tuple[str, int]]:
    """Address and port of everything that takes TCP connections on the host."""
    lines = host.run("ss", "-Hltn").stdout.splitlines()
    ends = [line.split()[3].rpartition(":") for line in lines]
    return sorted({(address.strip("[]"), int(port)) for address, _, port in ends})


def _said(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def _must(*command: str) -> None:
    done: subprocess.CompletedProcess[str] = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def ssh(host: Host, *command: str) -> Sequence[str]:
    """The command line that runs this on the host through its door."""
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    return ["ssh", "-i", str(host.key), *options, f"root@{host.address}", *command]
