"""`python -m erpo_ray` is `erpo`."""

from __future__ import annotations

import sys

from erpo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main())
