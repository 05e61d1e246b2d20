"""`erpo status` and `erpo tail`: where a run stands, from its directory, or from the job that was submitted for it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from erpo_ray import documents
from erpo_ray.commands.common import MEASURES, measures, metrics, require_run
from erpo_ray.progress import lasting
from erpo_ray.pulse import Beat, Going, beat
from erpo_ray.rundir.lines import json_object, ledger_rows, plain_rows
from erpo_ray.terminal import aligned, clean
from erpo_ray.types import Verdict
from erpo_ray.usage import GIB, Actor

SILENT_S = 180.0
"""Seconds without a sign of life after which a driver may be gone: an engine that starts is silent for less."""
VERDICTS = ("verdicts.jsonl", "evaluation_verdicts.jsonl")


@dataclass(frozen=True, slots=True)
class Failed:
    """Verdicts of a stage that are failures: how many, and the cause of the last one."""

    verdicts: int
    cause: str


def status(run: str, address: str, as_json: bool) -> int:
    """Print state, progress, workers, failures and measures of a run."""
    if address:
        return _job(run, address, as_json)
    where = Path(run)
    require_run(where)
    state = json_object(where / "status.json") or {"state": "not started"}
    rows, sign, failed, workers = metrics(where), beat(where), failures(where, state), _workers(where)
    actors = {row.actor: row for row in plain_rows(where / "actors.jsonl", Actor)}
    if as_json:
        found = {
            "status": state,
            "progress": None if sign is None else [_going(phase) for phase in sign.phases],
            "sign_of_life": None if sign is None else sign.written,
            "workers": workers,
            "actors": [asdict(row) for row in actors.values()],
            "failures": asdict(failed),
            "metrics": rows,
        }
        print(json.dumps(found, indent=2))
        return 0
    life = _life(state, sign, workers, time.time())
    for key, value in (*_told(state), *life, *_held(actors.values()), *_failed(failed)):
        print(clean(f"{key:<10} {value}"))
    table = measures(rows)
    if table:
        print(clean("\n" + aligned([("stage", *(name.replace("_", " ") for name in MEASURES)), *table])))
    return 0


def tail(run: str, address: str, sleep: Callable[[float], None] = time.sleep, every_s: float = 2.0) -> int:
    """Print what a run is at, whenever it changes, until it ends. Returns the run's exit code."""
    if address:
        from erpo_ray.cluster import submission

        job = submission.follow(run, address, lambda line: print(clean(line), flush=True))
        print(clean(f"{job.id}: {job.status}"))
        return int(job.status == "FAILED")
    where = Path(run)
    require_run(where)
    shown: list[str] = []
    while True:
        state = json_object(where / "status.json")
        sign = beat(where)
        lines = [f"{key:<10} {value}" for key, value in (*_told(state), *_life(state, sign, {}, time.time()))]
        for line in lines:
            if line not in shown and not line.startswith("updated"):
                print(clean(line), flush=True)
        shown = lines
        if state.get("state", "running") != "running":
            return int(state.get("exit_code") or 0)
        sleep(every_s)


def failures(run: Path, state: dict[str, Any]) -> Failed:
    """Of the stage that the run is in, or ended in."""
    count, cause = 0, ""
    for name in VERDICTS:
        for verdict in ledger_rows(run / "stages" / str(state.get("stage") or "base") / name, Verdict):
            if verdict.failure:
                count, cause = count + 1, verdict.failure.cause
    return Failed(count, cause)


def line(phase: Going) -> str:
    """A phase as one line: how far, how fast, how long still."""
    rate = "" if phase.rate is None else f", {phase.rate:.1f}/s"
    left = "" if phase.left_s is None else f", {lasting(phase.left_s)} left"
    return f"{phase.name} {phase.done}/{phase.total}{rate}{left}"


def _told(state: dict[str, Any]) -> list[tuple[str, Any]]:
    keys = ("state", "stage", "phase", "exit_code", "message", "updated")
    return [(key, state[key]) for key in keys if state.get(key) not in (None, "")]


def _life(state: dict[str, Any], sign: Beat | None, workers: dict[str, int], now: float) -> list[tuple[str, str]]:
    out = []
    if state.get("state") == "running":
        out += [("going on", line(phase)) for phase in (sign.phases if sign else ())]
        silent = now - sign.written if sign else 0.0
        if silent > SILENT_S:
            driver = f"process {state.get('pid')} on {state.get('host')}"
            remedy = f"if {driver} is gone, start the same command again"
            out.append(("silent", f"for more than {lasting(SILENT_S)}; {remedy}"))
    if workers:
        out.append(("workers", ", ".join(f"{count} {role}" for role, count in workers.items())))
    return out


def _held(actors: Iterable[Actor]) -> list[tuple[str, str]]:
    held = ", ".join(f"{row.actor} {row.rss / GIB:.1f} GiB" for row in actors)
    return [("memory", held)] if held else []


def _failed(failed: Failed) -> list[tuple[str, str]]:
    if not failed.verdicts:
        return []
    return [("failures", f"{failed.verdicts} verdicts in this stage, the last: {failed.cause}")]


def _workers(run: Path) -> dict[str, int]:
    """As the resolved configuration has them; read as plain YAML, since a run of an older version is shown too."""
    cluster = documents.read(run / "config.yaml").data.get("cluster", {})
    names = {role: f"{role}_workers" for role in ("rollout", "judge", "train")}
    return {role: cluster[name] for role, name in names.items() if name in cluster}


def _going(phase: Going) -> dict[str, Any]:
    return asdict(phase) | {"rate": phase.rate, "left_s": phase.left_s}


def _job(run: str, address: str, as_json: bool) -> int:
    from erpo_ray.cluster import submission

    job = submission.find(run, address)
    lines = submission.last_lines(job, address)
    if as_json:
        print(json.dumps({"job": asdict(job), "last_lines": lines}, indent=2))
        return 0
    print(clean("\n".join([f"{'job':<10} {job.id}", f"{'state':<10} {job.status}", job.message, "", *lines])))
    return 0
