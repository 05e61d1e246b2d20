"""What can be seen of a run, a sweep, an evaluation or a search from its directory, by any process on any machine.

Nothing is changed or locked in it.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erpo_ray import documents
from erpo_ray.pulse import Beat, beat
from erpo_ray.rundir.files import working
from erpo_ray.rundir.kind import DRIVEN, Kind, require
from erpo_ray.rundir.lease import held
from erpo_ray.rundir.lines import json_object, ledger_rows, plain_rows, read_rows
from erpo_ray.rundir.stage import SEAL
from erpo_ray.telemetry import STEPS, Present, Step
from erpo_ray.types import Verdict
from erpo_ray.usage import Actor

SILENT_S = 180.0
"""Seconds without a sign of life after which a driver may be gone: an engine that starts is silent for less."""
VERDICTS = ("verdicts.jsonl", "evaluation_verdicts.jsonl")
TRAINING = "training"
"""Name of the phase in which a stage is learnt."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Verdicts of a stage that are failures: how many, and the cause of the last one, with what the judge said."""

    verdicts: int
    cause: str
    raw: str = ""


@dataclass(frozen=True, slots=True)
class Learning:
    """The last logged step of a stage's training; `of` is None once it is over."""

    step: Step
    of: int | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """`state` is status.json. `done` are the sealed stages, `rejected` those of them that the gate turned down.

    `workers`: those of the configuration, with how many are up (None when nobody says). `driver`: whether a process
    holds the directory, None when that cannot be told.
    """

    kind: Kind
    state: dict[str, Any]
    beat: Beat | None
    metrics: list[dict[str, Any]]
    done: tuple[str, ...]
    rejected: frozenset[str]
    workers: dict[str, Present | int]
    actors: tuple[Actor, ...]
    failed: Failed
    learning: Learning | None
    driver: bool | None

    @property
    def running(self) -> bool:
        return self.state.get("state") == "running"

    def silent_s(self, now: float) -> float:
        """Seconds since the last sign of life."""
        return now - self.beat.written if self.beat else 0.0

    def gone(self, now: float) -> bool:
        """The driver ended without a word. Another machine's lock is believed only after a silence: some file systems
        do not pass locks on."""
        here = self.state.get("host") == socket.gethostname()
        return self.running and self.driver is False and (here or self.silent_s(now) > SILENT_S)


def look(path: Path) -> Seen:
    """What there is to see. UsageError for a directory that nothing drives, which says what it is instead."""
    kind = require(path, *DRIVEN)
    state = json_object(path / "status.json")
    metrics = list(plain_rows(path / "metrics.jsonl", dict[str, Any]))
    sign = beat(path)
    here = path / "stages" / str(state.get("stage") or "base")
    actors = {row.actor: row for row in plain_rows(path / "actors.jsonl", Actor)}
    return Seen(
        kind,
        state,
        sign,
        metrics,
        _done(path / "stages"),
        frozenset(str(row.get("stage")) for row in metrics if row.get("accepted") is False),
        _workers(path, sign),
        tuple(actors.values()),
        failures(here),
        _learning(here, sign),
        held(path),
    )


def failures(stage: Path) -> Failed:
    """The verdicts in a stage directory that are failures."""
    count, cause, raw = 0, "", ""
    for name in VERDICTS:
        for verdict in ledger_rows(stage / name, Verdict):
            if verdict.failure:
                count, cause, raw = count + 1, verdict.failure.cause, verdict.failure.raw
    return Failed(count, cause, raw)


def _done(stages: Path) -> tuple[str, ...]:
    """In the order in which they were sealed."""
    seals = sorted(stages.glob(f"*/{SEAL}"), key=lambda path: (path.stat().st_mtime_ns, path.parent.name))
    return tuple(path.parent.name for path in seals)


def _learning(stage: Path, sign: Beat | None) -> Learning | None:
    rows: Iterator[Step]
    if (over := stage / "training.jsonl").exists():
        rows, of = read_rows(over, Step), None
    else:
        rows = plain_rows(working(stage / "policy") / STEPS, Step)
        of = next((phase.total for phase in sign.phases if phase.name == TRAINING), None) if sign else None
    last = deque(rows, maxlen=1)
    return Learning(last[0], of) if last else None


def _workers(run: Path, sign: Beat | None) -> dict[str, Present | int]:
    """As the resolved configuration has them; read as plain YAML, since a run of an older version is shown too."""
    if sign and sign.workers:
        return dict(sign.workers)
    cluster = documents.read(run / "config.yaml").data.get("cluster", {})
    names = {role: f"{role}_workers" for role in ("rollout", "judge", "train")}
    return {role: cluster[name] for role, name in names.items() if name in cluster}
