"""`erpo eval` as a Ray job: a model, or the policy of a run directory, on suites and files of labelled prompts.

ray job submit --working-dir . -- python jobs/evaluate.py DIR --suite harmful,over_refusal --output evaluations/DIR
"""

from __future__ import annotations

import sys

from erpo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
