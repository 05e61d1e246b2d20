"""The Slurm script with programs of Slurm and Ray that only note what they are asked: codes, signals, steps."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_cluster_files import SLURM

STUBS = {
    "scontrol": 'if [ "$1" = show ]; then printf "n1\\nn2\\n"; else echo "$@" >> requeued; fi',
    "srun": 'echo "$@" >> "steps-$4"; exec sleep 60',
    "ray": "exit 0",
    "erpo": 'echo "$@" > driven; trap "sleep 1; exit 75" TERM; [ "$CODE" = wait ] || exit "$CODE"; touch up; '
    "while :; do sleep 0.1; done",
}


@pytest.fixture
def slurm(tmp_path: Path) -> Callable[[str], subprocess.Popen[str]]:
    """Starts the script in an allocation of two nodes, whose driver ends with this code, or waits for a signal."""
    bin = tmp_path / ".venv" / "bin"
    bin.mkdir(parents=True)
    for name, text in STUBS.items():
        (bin / name).write_text(f"#!/bin/bash\n{text}\n")
        (bin / name).chmod(0o755)
    job = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "4", "SLURM_GPUS_ON_NODE": "8"}

    def start(code: str) -> subprocess.Popen[str]:
        words = ["bash", str(SLURM), "c.yaml", "/runs/a", "seed=3"]
        return subprocess.Popen(words, cwd=tmp_path, env={**os.environ, **job, "CODE": code}, start_new_session=True)

    return start


@pytest.mark.parametrize(("code", "requeued"), [("0", False), ("2", False), ("100", False), ("75", True)])
def test_the_job_on_slurm_ends_with_the_code_of_the_run(
    tmp_path: Path, slurm: Callable[[str], subprocess.Popen[str]], code: str, requeued: bool
) -> None:
    assert slurm(code).wait(30) == int(code)
    assert (tmp_path / "requeued").exists() == requeued
    driven = (tmp_path / "driven").read_text().split()
    assert driven[:4] == ["run", "c.yaml", "--run-dir", "/runs/a"] and driven[-1] == "seed=3"
    address = driven[4].removeprefix("cluster.address=")
    assert address.endswith(":20007")


def test_the_job_on_slurm_passes_the_first_signal_on_and_waits(
    tmp_path: Path, slurm: Callable[[str], subprocess.Popen[str]]
) -> None:
    job = slurm("wait")
    until = time.monotonic() + 20
    while not ((tmp_path / "up").exists() and len(list(tmp_path.glob("steps-*"))) == 2) and time.monotonic() < until:
        time.sleep(0.05)
    job.terminate()
    assert job.wait(30) == 75
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    head, other = ((tmp_path / f"steps---nodelist={node}").read_text() for node in ("n1", "n2"))
    assert "--head" in head and "--dashboard-host=127.0.0.1" in head and "--num-gpus=8" in head
    assert "--head" not in other and "--address=" in other and "--block" in other
