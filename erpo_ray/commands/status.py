"""`erpo status` and `erpo tail`: where a run stands, from its directory, or from the job that was submitted for it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from erpo_ray.commands.common import MEASURES, measures
from erpo_ray.errors import ErpoError, Interrupted
from erpo_ray.progress import lasting
from erpo_ray.pulse import Going
from erpo_ray.rundir.kind import said_of
from erpo_ray.telemetry import Present, Trouble
from erpo_ray.terminal import aligned, clean
from erpo_ray.usage import GIB, Actor
from erpo_ray.watch import SILENT_S, Failed, Learning, Seen, look

GONE_S = 60.0
"""Seconds that `tail` waits for another start of a run whose driver has gone."""
_RAW = 160
"""Characters shown of what a judge said that failed."""
_JOB_ENDINGS = {"FAILED": ErpoError.exit_code, "STOPPED": Interrupted.exit_code}
"""Exit codes by Ray's word for how a job ended, which does not carry the run's own."""

Line = tuple[str, str]


def status(run: str, address: str, as_json: bool) -> int:
    """Print state, progress, workers, losses, failures and measures of a run."""
    if address:
        return _job(run, address, as_json)
    where, now = Path(run), time.time()
    seen = look(where)
    if as_json:
        print(json.dumps(_values(seen, now), indent=2))
        return 0
    kind = [] if seen.kind == "run" else [("kind", said_of(where, seen.kind).partition(": ")[2])]
    told = _told(seen.state) or [("state", "not started")]
    lines = (*kind, *told, *_done(seen), *_life(seen, now), *_workers(seen), *_troubles(seen), *_held(seen.actors))
    for key, value in (*lines, *_failed(seen.failed)):
        print(clean(f"{key:<10} {value}"))
    table = measures(seen.metrics)
    if table:
        print(clean("\n" + aligned([("stage", *(name.replace("_", " ") for name in MEASURES)), *table])))
    return 0


def tail(run: str, address: str, sleep: Callable[[float], None] = time.sleep, every_s: float = 2.0) -> int:
    """Print what a run is at, whenever it changes, until it ends. Returns the run's exit code.

    A driver that ended without a word is waited for: the next start is followed as well. Without one that of an
    interrupted run is returned.
    """
    if address:
        from erpo_ray.cluster import submission

        job = submission.follow(run, address, lambda line: print(clean(line), flush=True))
        print(clean(f"{job.id}: {job.status}"))
        return _JOB_ENDINGS.get(job.status, 0)
    shown: list[str] = []
    gone_s = 0.0
    while True:
        seen, now = look(Path(run)), time.time()
        lines = [f"{key:<10} {value}" for key, value in (*_told(seen.state), *_life(seen, now), *_troubles(seen))]
        for line in lines:
            if line not in shown and not line.startswith("updated"):
                print(clean(line), flush=True)
        shown = lines
        if seen.state and not seen.running:
            return int(seen.state.get("exit_code") or 0)
        if gone_s >= GONE_S:
            return Interrupted.exit_code
        gone_s = gone_s + every_s if seen.gone(now) else 0.0
        sleep(every_s)


def line(phase: Going) -> str:
    """A phase as one line: how far, how fast, how long still."""
    rate = "" if phase.rate is None else f", {phase.rate:.1f}/s"
    left = "" if phase.left_s is None else f", {lasting(phase.left_s)} left"
    return f"{phase.name} {phase.done}/{phase.total}{rate}{left}"


def learnt(learning: Learning) -> str:
    """A step of training as one line; what its loss does not have is left out."""
    step = learning.step
    of = "" if learning.of is None else f" of {learning.of}"
    found = [f"loss {step.loss:.4f}"]
    if step.margin is not None:
        found.append(f"reward margin {step.margin:+.3f}")
    if step.accuracy is not None:
        found.append(f"accuracy {step.accuracy:.0%}")
    if step.kl is not None:
        found.append(f"kl {step.kl:.4f}")
    return f"step {step.step}{of}: {', '.join(found)}"


def _values(seen: Seen, now: float) -> dict[str, Any]:
    sign = seen.beat
    return {
        "kind": seen.kind,
        "status": seen.state or {"state": "not started"},
        "driver": {True: "alive", False: "gone" if seen.gone(now) else "unknown", None: "unknown"}[seen.driver],
        "progress": None if sign is None else [_going(phase) for phase in sign.phases],
        "sign_of_life": None if sign is None else sign.written,
        "done": [{"stage": name, "rejected": name in seen.rejected} for name in seen.done],
        "workers": {
            role: asdict(found) if isinstance(found, Present) else {"up": None, "of": found}
            for role, found in seen.workers.items()
        },
        "learning": None if seen.learning is None else asdict(seen.learning.step) | {"of": seen.learning.of},
        "troubles": [asdict(trouble) for trouble in (sign.troubles if sign else ())],
        "actors": [asdict(row) for row in seen.actors],
        "failures": asdict(seen.failed),
        "metrics": seen.metrics,
    }


def _told(state: dict[str, Any]) -> list[Line]:
    keys = ("state", "stage", "phase", "exit_code", "message", "updated")
    return [(key, str(state[key])) for key in keys if state.get(key) not in (None, "")]


def _done(seen: Seen) -> list[Line]:
    names = [f"{name} (rejected)" if name in seen.rejected else name for name in seen.done]
    return [("done", ", ".join(names))] if names else []


def _life(seen: Seen, now: float) -> Iterator[Line]:
    """What goes on, and whether anybody is there."""
    if not seen.running:
        return
    driver = f"process {seen.state.get('pid')} on {seen.state.get('host')}"
    if seen.gone(now):
        yield "gone", f"{driver} ended without a word; start the same command again, it continues"
        return
    yield from (("going on", line(phase)) for phase in (seen.beat.phases if seen.beat else ()))
    if seen.learning and seen.learning.of is not None:
        yield "learning", learnt(seen.learning)
    if seen.silent_s(now) > SILENT_S:
        there = f"{driver} still holds the run" if seen.driver else f"if {driver} is gone, start the same command again"
        yield "silent", f"for more than {lasting(SILENT_S)}; {there}"


def _workers(seen: Seen) -> Iterator[Line]:
    if seen.learning and (not seen.running or seen.learning.of is None):
        yield "learnt", learnt(seen.learning)
    if seen.workers:
        found = [
            f"{each.up} of {each.of} {role}" if isinstance(each, Present) and seen.running else f"{_of(each)} {role}"
            for role, each in seen.workers.items()
        ]
        yield "workers", ", ".join(found)


def _of(workers: Present | int) -> int:
    return workers.of if isinstance(workers, Present) else workers


def _troubles(seen: Seen) -> list[Line]:
    return [("trouble", _when(trouble)) for trouble in (seen.beat.troubles if seen.beat else ())]


def _when(trouble: Trouble) -> str:
    return f"{time.strftime('%H:%M:%S', time.localtime(trouble.at))} {trouble.text}"


def _held(actors: Iterable[Actor]) -> list[Line]:
    held = ", ".join(f"{row.actor} {row.rss / GIB:.1f} GiB" for row in actors)
    return [("memory", held)] if held else []


def _failed(failed: Failed) -> list[Line]:
    if not failed.verdicts:
        return []
    raw = " ".join(failed.raw.split())[:_RAW]
    last = f"{failed.cause}: {raw}" if raw else failed.cause
    return [("failures", f"{failed.verdicts} verdicts in this stage, the last: {last}")]


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
