"""A timeline of one prefer round in the midst of a run, and who waits for whom in it.

python bench/timeline.py POLICY [--prompts N] [-o round.json]

POLICY is a model directory that the demo's imitate stage made. Two rounds are played as `erpo run` plays them, on the
same workers; the second one is shown. `round.json` opens in Perfetto (ui.perfetto.dev) or chrome://tracing: a row for
each worker, with the calls that Ray's own timeline has of it, one for the trainer's jobs, and one for the driver, in
which those tenths of a second stand that its main thread computed in. The table tells the share of the round in which
each of them worked, and in which it was the only one that did: what is alone keeps all others waiting.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rounds import Round, demo, play, round_of, standing

from erpo_ray import environment

TICK_S = 0.1
"""Seconds between two looks at the driver's clock of computing; it works in one of which it computed half."""
DRIVER, TRAINER = "driver", "trainer"
ROLES = {"RolloutWorker": "rollout", "JudgeWorker": "judge"}
TAKEN, FINISHED = "Desk.take", "Desk.finish"


@dataclass(frozen=True, slots=True)
class Span:
    """Something that a role did, in seconds of the epoch."""

    role: str
    name: str
    begun: float
    ended: float


def spans(events: Iterable[Mapping[str, Any]]) -> list[Span]:
    """What the workers did, from Ray's timeline: calls of rollout and judge workers, and jobs of the trainer.

    A job lasts from when the trainer has taken it from its desk until it hands in its metrics.
    """
    found: list[Span] = []
    rows: dict[str, dict[str, int]] = {}
    taken: list[float] = []
    for event in sorted(events, key=lambda event: event["ts"]):
        # `name` has the method alone.
        name = str(event["cat"]).removeprefix("task::")
        begun, ended = event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6
        kind, _, call = name.partition(".")
        if kind in ROLES and call not in ("", "__init__"):
            mine = rows.setdefault(kind, {})
            number = mine.setdefault(str(event["tid"]), len(mine))
            found.append(Span(f"{ROLES[kind]} {number}", call, begun, ended))
        elif name == TAKEN:
            taken.append(ended)
        elif name == FINISHED:
            since = [moment for moment in taken if moment <= begun]
            last = max((span.ended for span in found if span.role == TRAINER), default=0.0)
            found.append(Span(TRAINER, "job", min(moment for moment in since if moment >= last), begun))
    return found


def within(found: Iterable[Span], begun: float, ended: float) -> list[Span]:
    """The parts of spans that lie between two moments."""
    return [
        Span(span.role, span.name, max(begun, span.begun), min(ended, span.ended))
        for span in found
        if span.begun < ended and span.ended > begun
    ]


def shares(found: Sequence[Span], begun: float, ended: float) -> dict[str, tuple[float, float]]:
    """Of each role the share of the time in which it worked, and in which nobody else did; "nobody" has the rest."""
    edges = sorted(
        {begun, ended, *(edge for span in found for edge in (span.begun, span.ended) if begun < edge < ended)}
    )
    worked: dict[str, list[float]] = {role: [0.0, 0.0] for role in sorted({span.role for span in found})}
    idle = 0.0
    for left, right in zip(edges, edges[1:], strict=False):
        busy = {span.role for span in found if span.begun < right and span.ended > left}
        idle += 0.0 if busy else right - left
        for role in busy:
            worked[role][0] += right - left
            worked[role][1] += right - left if len(busy) == 1 else 0.0
    whole = ended - begun
    return {role: (a / whole, b / whole) for role, (a, b) in worked.items()} | {"nobody": (idle / whole, idle / whole)}


def computed(ticks: Sequence[tuple[float, float]]) -> list[Span]:
    """The driver's spans, from its clock of computing read at some moments (both in seconds)."""
    busy: list[Span] = []
    for (begun, before), (ended, after) in zip(ticks, ticks[1:], strict=False):
        if after - before < (ended - begun) / 2:
            continue
        joined = busy.pop().begun if busy and busy[-1].ended == begun else begun
        busy.append(Span(DRIVER, "computes", joined, ended))
    return busy


def trace(found: Sequence[Span]) -> dict[str, Any]:
    """The spans in Chrome's trace format, in microseconds, a row for each role."""
    roles = {role: at for at, role in enumerate(sorted({span.role for span in found}))}
    named = [
        {"ph": "M", "name": "thread_name", "pid": 0, "tid": at, "args": {"name": role}} for role, at in roles.items()
    ]
    drawn = [
        {"ph": "X", "name": span.name, "cat": span.role, "pid": 0, "tid": roles[span.role]}
        | {"ts": span.begun * 1e6, "dur": (span.ended - span.begun) * 1e6}
        for span in found
    ]
    return {"traceEvents": [*named, *drawn]}


@contextmanager
def watched() -> Iterator[list[tuple[float, float]]]:
    """Reads the clock of computing of this process's main thread, until the block ends."""
    main = threading.main_thread().ident
    assert main is not None
    clock, ticks, done = time.pthread_getcpuclockid(main), list[tuple[float, float]](), threading.Event()

    def read() -> None:
        while not done.wait(TICK_S):
            ticks.append((time.time(), time.clock_gettime(clock)))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield ticks
    finally:
        done.set()
        thread.join()


def played(policy: Path, prompts: int | None) -> tuple[Round, list[Span]]:
    """The second of two rounds, and what everyone did in it."""
    # Ray reads this when it starts.
    os.environ["RAY_PROFILING"] = "1"
    import ray

    config = demo(policy, prompts)
    with tempfile.TemporaryDirectory() as name, standing(config):
        folder = Path(name)
        play(config, "prefer", folder / "first")
        with watched() as ticks:
            shown = round_of(play(config, "prefer", folder / "later"))
        events: Any = ray.timeline()
        found = [*spans(events), *computed(ticks)]
    return shown, within(found, shown.begun, shown.ended)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path)
    parser.add_argument("--prompts", type=int, help="of a round, in place of the demo's")
    parser.add_argument("-o", "--output", type=Path, default=Path("round.json"))
    given = parser.parse_args()
    environment.apply()
    shown, found = played(given.policy.resolve(), given.prompts)
    given.output.write_text(json.dumps(trace(found)))
    print(f"a round of {shown.seconds:.1f} s with {shown.pairs} pairs: {given.output}\n{'':12}{'works':>8}{'alone':>8}")
    for role, (worked, alone) in shares(found, shown.begun, shown.ended).items():
        print(f"{role:12}{worked:8.1%}{alone:8.1%}")


if __name__ == "__main__":
    main()
