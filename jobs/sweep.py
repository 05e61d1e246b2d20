"""`erpo sweep` as a Ray job; with the same --run-dir again it continues. Exits with the code that status.json holds.

ray job submit --working-dir . -- python jobs/sweep.py configs/compare_smollm2.yaml --run-dir DIR data.root=FOLDER

DIR and FOLDER are whole paths of the shared folder.
"""

from __future__ import annotations

import sys

from erpo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
