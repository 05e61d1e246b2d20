"""The bench of a GPU where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_without_a_gpu_one_sentence_says_so() -> None:
    ran = subprocess.run(
        [sys.executable, "bench/gpu.py", "smollm2-135m-instruct"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert ran.stderr == "bench/gpu.py measures a CUDA device, and torch finds none on this machine.\n"
    assert ran.stdout == ""
