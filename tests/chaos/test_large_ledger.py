"""What a candidate costs does not depend on how many there are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent


def measured(path: Path, count: int) -> dict[str, float]:
    sources = os.pathsep.join(map(str, (HERE.parents[1], HERE.parent / "unit")))
    command = [sys.executable, str(HERE / "large_ledger.py"), str(path), str(count)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": sources}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    path.unlink()
    return json.loads(done.stdout)


def test_memory_and_cost_of_many_candidates(
    tmp_path: Path, scale: Callable[[int, int], int], promise: Callable[[str], None]
) -> None:
    few, many = 10_000, scale(50_000, 1_000_000)
    small, large = (measured(tmp_path / "candidates.jsonl", count) for count in (few, many))
    promise(
        f"ledger: candidates {many:,}  append {large['append_us']:.0f} us ({small['append_us']:.0f} at {few:,})  "
        f"resume {large['open_s']:.1f} s  RSS {large['rss_mib']:.0f} MiB"
    )
    assert large["append_us"] < 1.5 * small["append_us"]
    # A line may have 16 MiB, and as much is read at once.
    assert large["rss_mib"] <= 400 and large["grown_mib"] < 20 + 40e-6 * many
    assert large["open_s"] <= 30
