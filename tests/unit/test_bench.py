"""The benches that need no model run, and end in their measures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_driver_bench_runs_and_lists_its_measures() -> None:
    ran = subprocess.run(
        [sys.executable, "bench/driver.py", "--short"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    head, *measures = ran.stdout.rpartition("measure ")[2].splitlines()
    assert head.split() == ["ratio"]
    assert [line.split()[0] for line in measures] == 2 * ["driver:"] + 2 * ["64"] + 3 * ["candidates"] + ["verdicts"]
    assert all(float(line.split()[-1]) > 0 for line in measures[2:])
