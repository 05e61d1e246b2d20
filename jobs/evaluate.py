"""`erpo eval` as a Ray job: a model, or the policy of a run directory, on suites and files of labelled prompts.

ray job submit --working-dir . -- python jobs/evaluate.py /mnt/shared/runs/DIR --suite harmful,over_refusal

Give whole paths of the shared folder: a relative one lies in the copy of this folder that Ray uploads, and goes with
it. Evaluations of a run are kept in its directory; those of another model need --output /mnt/shared/evaluations/NAME.
"""

from __future__ import annotations

import sys

from erpo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
