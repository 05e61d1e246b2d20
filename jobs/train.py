"""`erpo run` as a Ray job; with the same --run-dir again it continues. Exits with the code that status.json holds.

ray job submit --working-dir . -- python jobs/train.py configs/demo.yaml --run-dir DIR key=value

DIR is a whole path of the shared folder.
"""

from __future__ import annotations

import sys

from erpo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
