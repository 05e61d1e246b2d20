"""Where what these tests share with others stands."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / room) for room in ("chaos", "ray")]
