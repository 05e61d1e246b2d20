"""Runs by the command line on a tiny model, with everything real below them, for tests that kill parts of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
MARK = "ERPO_TEST_MARK"
"""Processes of a run inherit it, so that a test can find them, and see that none is left."""
END_S = 1200.0

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
        mark = uuid.uuid4().hex
        environment = os.environ | {
            MARK: mark,
            "ERPO_FAILPOINT": failpoint,
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
        }
        words = ["run", str(self.config), "--run-dir", str(self.place)]
        with self.log.open("ab") as out:
            driver = subprocess.Popen(
                [sys.executable, "-m", "erpo_ray", *words], cwd=ROOT, env=environment, stdout=out, stderr=out
            )
        return Started(driver, mark, self.log)


@dataclass
class Started:
    """A driver at work."""

    driver: subprocess.Popen[bytes]
    mark: str
    log: Path

    def until(self, seen: Callable[[], bool]) -> None:
        """Wait for something that the driver's work brings about."""
        end = time.monotonic() + END_S
        while not seen():
            assert self.driver.poll() is None and time.monotonic() < end, self.said()
            time.sleep(0.01)

    def kill(self, title: str) -> int:
        """SIGKILL the process of this title; returns its id."""
        titles = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in self.processes()}
        (pid,) = [pid for pid, found in titles.items() if found.startswith(title)]
        os.kill(pid, signal.SIGKILL)
        return pid

    def end(self) -> int:
        """The exit code, once the driver and all that it started are gone."""
        code = self.driver.wait(END_S)
        end = time.monotonic() + 60
        while left := list(self.processes()):
            assert time.monotonic() < end, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
            time.sleep(0.1)
        return code

    def processes(self) -> Iterator[int]:
        """Those that this start began, at any remove."""
        told = f"{MARK}={self.mark}".encode()
        for found in Path("/proc").glob("[0-9]*"):
            try:
                if told in (found / "environ").read_bytes().split(b"\0"):
                    yield int(found.name)
            except OSError:
                # It is gone, or about to be.
                continue

    def said(self) -> str:
        """The last lines of its output."""
        return self.log.read_text(errors="replace")[-3000:]
