"""`erpo eval` as a Ray job: a model, or the policy of a run directory, on files of labelled prompts.

ray job submit --working-dir . -- python jobs/evaluate.py DIR prompts.jsonl --output evaluation.json
"""

from __future__ import annotations

import sys

from erpo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
