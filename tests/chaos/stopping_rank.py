"""A training loop for real Ray Train in which rank 1 stops itself once, in the middle of a step. Apart from its driver,
whose imports take seconds."""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path
from typing import Any

ARMED = "ERPO_TEST_STOP"
"""Names a file: while it is there rank 1 takes it away in its `PASS`th forward pass from then on, and stops."""
PASS = 7
"""In the fourth step, of two passes each."""
PASS_S, BEAT_S = 0.2, 0.05
"""Seconds that a pass takes at least, and those between two signs: the model is too small to be seen otherwise."""


def loop(config: dict[str, Any]) -> None:
    from erpo_ray.cluster import ranks
    from erpo_ray.train import fit, signs

    armed, passes = Path(os.environ[ARMED]), itertools.count(1)

    def stop(name: str) -> None:
        time.sleep(PASS_S)
        if name == "forward:rank1" and armed.exists() and next(passes) == PASS:
            armed.rename(armed.with_suffix(f".{os.getpid()}"))
            os.kill(os.getpid(), signal.SIGSTOP)

    fit.failpoint, signs.BEAT_S = stop, BEAT_S
    ranks.loop(config)
