"""`erpo synthesize` as a Ray job: the examples of a run's first stage. jobs/train.py goes on with the same --run-dir.

ray job submit --working-dir . -- python jobs/synthesize.py configs/demo.yaml --run-dir DIR key=value

DIR is a whole path of the shared folder.
"""

from __future__ import annotations

import sys

from erpo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["synthesize", *sys.argv[1:]]))
