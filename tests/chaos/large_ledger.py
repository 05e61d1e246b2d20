"""A program: write, damage nothing, and read back a ledger of N candidates; prints seconds and memory as JSON."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

from rundir_driver import NoSync

from erpo_ray.rundir import Ledger
from erpo_ray.types import Candidate

TEXT = "A plain and friendly answer to the question that was asked. " * 4


def main(path: Path, count: int) -> dict[str, float]:
    before = most_mib()
    begun = time.process_time()
    ledger = Ledger(NoSync(), path, Candidate, 1)
    for number in range(count):
        ledger.append(Candidate(f"{number:016x}", str(number // 4), number % 4, (1, 2, 3), TEXT, "stop", "v"))
    ledger.close()
    written = time.process_time()
    again = Ledger(NoSync(), path, Candidate, 2)
    assert len(again) == count and f"{count - 1:016x}" in again
    opened = time.process_time()
    return {
        "append_us": (written - begun) / count * 1e6,
        "open_s": opened - written,
        "rss_mib": most_mib(),
        "grown_mib": most_mib() - before,
    }


def most_mib() -> float:
    """The most memory that this program ever held. Not `ru_maxrss`, which begins with what its parent held."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) / 1024


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
