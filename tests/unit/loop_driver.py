"""A process that plays a method by rote in a directory and prints what it sampled: for tests that kill it."""

from __future__ import annotations

import sys
from pathlib import Path

from fakes import Rote
from test_loop import of, run

from erpo_ray import rules
from erpo_ray.methods import METHODS

if __name__ == "__main__":
    place, method, overlap = sys.argv[1:]
    config = of(method).model_copy(update={"overlap": overlap})
    plain = any(stage.kind == "prefer" and not stage.traced for stage in METHODS[method](config))
    _, backend = run(Path(place), config, Rote(config, rules.load(""), plain))
    print("\n".join(backend.sampled))
