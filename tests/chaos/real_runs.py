"""Runs by the command line on a tiny model, with everything real below them, for tests that kill parts of them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
END_S = 1200.0
_CHILD_SUBREAPER = 36
"""Of prctl: whom the driver leaves behind becomes a child of this process, and can be found."""

CONFIG = """
name: killed
model: {{path: {model}, max_length: 320}}
data:
  train: [{{path: seeds, split: train, where: {{category: fraud}}}}]
  evaluate: [{{path: seeds, split: evaluate, where: {{category: fraud}}}}]
imitate:
  harmful: 12
  benign: 12
  draw: {{max_tokens: 16}}
  fit: {{max_steps: 2, batch_size: 4}}
prefer:
  prompts: 8
  draw: {{max_tokens: 128}}
  negatives: 12
  fit: {{max_steps: 8, batch_size: 4, epochs: 8, save_steps: 2, learning_rate: 1e-3}}
rounds: {{count: 0}}
gate: {{safety_tolerance: 1.0, refusal_tolerance: 1.0, balance_gain: -1.0}}
evaluate: {{max_tokens: 16, per_source: 4}}
cluster: {{in_flight: 4, kv_cache_gib: 0.25, train_workers: 2}}
"""


@dataclass
class Run:
    """One run directory and the command that begins and continues it."""

    config: Path
    place: Path
    log: Path

    def start(self, failpoint: str = "") -> Started:
        """The command; parts of it die at `failpoint`."""
        ctypes.CDLL(None).prctl(_CHILD_SUBREAPER, 1)
        before = frozenset(below(os.getpid()))
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        environment = os.environ | offline | {"ERPO_FAILPOINT": failpoint}
        words = ["run", str(self.config), "--run-dir", str(self.place)]
        with self.log.open("ab") as out:
            driver = subprocess.Popen(
                [sys.executable, "-m", "erpo_ray", *words], cwd=ROOT, env=environment, stdout=out, stderr=out
            )
        return Started(driver, before, self.log)


@dataclass
class Started:
    """A driver at work."""

    driver: subprocess.Popen[bytes]
    before: frozenset[int]
    log: Path

    def until(self, seen: Callable[[], bool]) -> None:
        """Wait for something that the driver's work brings about."""
        end = time.monotonic() + END_S
        while not seen():
            assert self.driver.poll() is None and time.monotonic() < end, self.said()
            time.sleep(0.01)

    def kill(self, title: str) -> int:
        """SIGKILL the process of this title; returns its id."""
        (pid,) = [pid for pid, found in self.processes().items() if found.startswith(title)]
        os.kill(pid, signal.SIGKILL)
        return pid

    def end(self) -> int:
        """The exit code, once the driver and all that it started are gone."""
        code = self.driver.wait(END_S)
        end = time.monotonic() + 120
        while left := self.processes():
            assert time.monotonic() < end, left
            self._bury()
            time.sleep(0.1)
        return code

    def _bury(self) -> None:
        """Take leave of the dead that fell to this process: a worker of Ray takes a raylet that nobody waited for to be
        alive."""
        for child in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
            if int(child) not in self.before and int(child) != self.driver.pid:
                with suppress(ChildProcessError):
                    os.waitpid(int(child), os.WNOHANG)

    def processes(self) -> dict[int, str]:
        """What this start began, at any remove, and still runs: the titles by their ids."""
        return {pid: title for pid, title in below(os.getpid()).items() if pid not in self.before}

    def said(self) -> str:
        """The last lines of its output."""
        return self.log.read_text(errors="replace")[-3000:]


def below(pid: int) -> dict[int, str]:
    """The living descendants of a process, with their titles."""
    parents: dict[int, int] = {}
    for found in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = found.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(found.parent.name)] = int(parent)
    out: dict[int, str] = {}
    for child in parents:
        above = child
        while above in parents and above != pid:
            above = parents[above]
        if above == pid != child:
            with suppress(OSError):
                out[child] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return out
