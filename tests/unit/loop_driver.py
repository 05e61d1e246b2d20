"""A process that plays the whole loop by rote in a directory and prints what it sampled: for tests that kill it."""

from __future__ import annotations

import sys
from pathlib import Path

from test_loop import run

if __name__ == "__main__":
    _, backend = run(Path(sys.argv[1]))
    print("\n".join(backend.sampled))
