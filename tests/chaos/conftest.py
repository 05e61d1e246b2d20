"""The chaos tests drive the loop and the cluster as the tests of other rooms do."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / room) for room in ("unit", "ray")]
