"""Named places where a test can kill the process, as a power cut would.

`ERPO_FAILPOINT=pairs:renamed` dies with SIGKILL at that place, `ERPO_FAILPOINT=candidates:appended:40` at its 40th
passage. Without the variable every place is a no-op.
"""

from __future__ import annotations

import itertools
import os
import signal

STEPS = ("before", "written", "synced", "renamed")
"""The life of an artefact: nothing done, temporary name written, its data on disk, final name given."""

ARTEFACTS = (
    "config",
    "environment",
    "fingerprint",
    "lease",
    "status",
    "prompts",
    "labeller",
    "examples",
    "negatives",
    "pairs",
    "left_out",
    "evaluation",
    "outcome",
    "training",
    "policy",
    "policy_facts",
    "stage",
)

NAMES = tuple(f"{artefact}:{step}" for artefact in ARTEFACTS for step in STEPS) + (
    "candidates:appended",
    "verdicts:appended",
    "evaluation_candidates:appended",
    "evaluation_verdicts:appended",
    "metrics:appended",
    "phases:appended",
    "pointer:before",
    "pointer:renamed",
    "stage:sealed",
)
"""Every place of a driver in a full run; a test kills one at each."""

TRAINING = ("forward:rank1", "checkpoint:half")
"""Places of training workers, which inherit the variable: a forward pass of a rank (of any, by its number), and a
checkpoint of rank 0 that has weights and no optimiser yet."""

_passages = itertools.count(1)


def failpoint(name: str) -> None:
    """Die here if the environment asks for it."""
    armed = os.environ.get("ERPO_FAILPOINT", "")
    if not armed.startswith(name):
        return
    nth = armed[len(name) :].lstrip(":") or "1"
    if nth.isdigit() and next(_passages) == int(nth):
        os.kill(os.getpid(), signal.SIGKILL)
