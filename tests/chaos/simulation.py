"""A whole run in one thread: the real loop and pool over workers, clock and disk that one seed drives.

Workers are slow, die, alone or with all of their node, hang, come back late or never and answer out of order; the
driver loses its power after any file operation and starts again from what the disk may then hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from crash_disk import Disk, PowerCut
from fakes import Letters, Rote

from erpo_ray import rules
from erpo_ray.backend import Ahead, Name
from erpo_ray.cluster import pool
from erpo_ray.cluster.pool import Item, Pool, WorkerLost
from erpo_ray.config import Config, Data, Imitate, Prefer, Rounds, Source
from erpo_ray.engines.vllm import Finished
from erpo_ray.errors import RunFailed
from erpo_ray.loop import align
from erpo_ray.methods import METHODS
from erpo_ray.methods.base import Task
from erpo_ray.prompts import mixing
from erpo_ray.rundir import Ledger, RunDir, ledger, run
from erpo_ray.rundir.fingerprint import fingerprint
from erpo_ray.rundir.lines import artefact_rows, verify
from erpo_ray.scene import Scene
from erpo_ray.teachers import TemplateTeacher
from erpo_ray.types import (
    Candidate,
    Example,
    Objective,
    Pair,
    Policy,
    Prompt,
    Request,
    Sampling,
    Training,
    Verdict,
    decode,
)
from erpo_ray.usage import Upkeep

ROOT, BASE = Path("/runs/one"), Path("/base")
CONFIG = Config(
    data=Data(
        train=(Source(path="seeds", split="train", where={"category": "fraud"}, limit=40),),
        evaluate=(Source(path="seeds", split="evaluate", where={"category": "fraud"}, limit=6),),
    ),
    imitate=Imitate(harmful=4, benign=4),
    prefer=Prefer(prompts=6, samples=4, negatives=2),
    rounds=Rounds(count=1),
)
BOOK = rules.load("")
MINE = fingerprint(CONFIG, {})


@cache
def _mix() -> mixing.Mix:
    return mixing.gather(CONFIG.data, tuple(BOOK.categories), CONFIG.seed)


def quick(monkeypatch: Any) -> None:
    """Thousands of starts: no YAML, no package versions, deadlines and group commits that come often."""
    monkeypatch.setattr(run, "config_yaml", lambda config: b"name: simulated\n")
    monkeypatch.setattr(run, "environment", lambda: {"python": "3"})
    monkeypatch.setattr(run, "fingerprint", lambda config, inputs: MINE)
    monkeypatch.setattr(ledger, "GROUP_LINES", 5)
    monkeypatch.setattr(ledger, "GROUP_SECONDS", 60.0)
    monkeypatch.setattr(pool, "CALL_DEADLINE_S", 30.0)


@dataclass
class Rates:
    """How often things go wrong, as shares of calls; `cut` is that of starts that lose power, `gone` of lost workers
    that have no successor."""

    die: float = 0.0
    node: float = 0.0
    gone: float = 0.0
    hang: float = 0.0
    judge_die: float = 0.0
    cut: float = 0.0
    start_s: float = 20.0
    step_s: tuple[float, float] = (0.5, 8.0)


@dataclass
class Counts:
    """What happened in a simulated run."""

    faults: int = 0
    starts: int = 0
    wall_s: float = 0.0
    lost: set[str] = field(default_factory=set)
    doubled: set[str] = field(default_factory=set)


class Workers:
    """Rollout and judge workers on a simulated clock: a crew of the pool."""

    def __init__(self, random: Random, rates: Rates, counts: Counts, backend: Simulated) -> None:
        self.rollout_workers, self.judge_workers = random.randint(1, 4), random.randint(1, 2)
        self.now, self._tickets = 0.0, 0
        self._random, self._rates, self._counts, self._backend = random, rates, counts, backend
        self._ready_at: dict[int, float] = {}
        self._results: dict[int, Callable[[], list[Any]]] = {}
        self._free_at = [rates.start_s] * self.rollout_workers
        self._held: list[list[tuple[Request, int]]] = [[] for _ in range(self.rollout_workers)]
        self._node_of = [random.randrange(2) for _ in range(self.rollout_workers)]
        self._calls: dict[int, int] = {}

    def clock(self) -> float:
        return self.now

    def advance(self, worker: int, requests: Sequence[Request]) -> int:
        held = self._held[worker]
        held += [(request, sample) for request in requests for sample in request.samples]
        self._random.shuffle(held)
        count = self._random.randint(1, len(held)) if held else 0

        def done() -> list[Finished]:
            gone, held[:count] = held[:count], []
            return [self._backend.finished(request, sample) for request, sample in gone]

        begin = max(self.now, self._free_at[worker])
        self._free_at[worker] = begin + self._random.uniform(*self._rates.step_s)
        ticket = self._calls[worker] = self._ticket(self._free_at[worker], done, self._rates.die, self._rates.hang)
        if self._random.random() < self._rates.node:
            self._node_dies(self._node_of[worker])
        return ticket

    def _node_dies(self, node: int) -> None:
        """All of its workers are lost at once."""
        self._counts.faults += 1
        for worker, ticket in self._calls.items():
            if self._node_of[worker] == node and ticket in self._ready_at:
                self._ready_at[ticket], self._results[ticket] = self.now, self._lost

    def judge(self, worker: int, items: Sequence[Item]) -> int:
        asked = list(items)
        end = self.now + self._random.uniform(0.01, 1.0)
        return self._ticket(end, lambda: self._backend.judged(asked), self._rates.judge_die, 0.0)

    def wait(self, tickets: Sequence[int], timeout_s: float) -> Sequence[int]:
        first = min((self._ready_at[ticket] for ticket in tickets), default=self.now)
        self.now = max(self.now, min(first, self.now + timeout_s))
        ready = [ticket for ticket in tickets if self._ready_at[ticket] <= self.now]
        self._random.shuffle(ready)
        return ready

    def result(self, ticket: int) -> list[Any]:
        self.now = max(self.now, self._ready_at.pop(ticket))
        return self._results.pop(ticket)()

    def replace_rollout(self, worker: int) -> None:
        self._held[worker] = []
        # The first is always there again: a run without workers would wait for ever, as it should.
        gone = worker and self._random.random() < self._rates.gone
        self._free_at[worker] = self.now + (1e6 if gone else self._rates.start_s)

    def replace_judge(self, worker: int) -> None:
        pass

    def _ticket(self, at: float, result: Callable[[], list[Any]], die: float, hang: float) -> int:
        ticket = self._tickets = self._tickets + 1
        fate = self._random.random()
        if fate < die:
            self._counts.faults += 1
            at, result = self._random.uniform(self.now, at), self._lost
        elif fate < die + hang:
            self._counts.faults += 1
            at += self._random.choice((60.0, 1e9))
        self._ready_at[ticket], self._results[ticket] = at, result
        return ticket

    def _lost(self) -> list[Any]:
        raise WorkerLost("killed by the simulation")


class Simulated:
    """A backend over `Workers` and a disk in memory; its policies answer by rote."""

    def __init__(self, files: Disk, random: Random, rates: Rates, counts: Counts) -> None:
        self._files, self._rote = files, _rote()
        self._random, self._rates, self._counts = random, rates, counts
        self._skill = 0
        self.drawn: list[str] = []

    def policy(self, path: Path) -> Policy:
        return Policy(path, f"skill{self._files.read(path / 'skill').decode()}")

    def prepare(self, policy: Policy) -> None:
        self._skill = int(policy.version.removeprefix("skill"))

    def rollouts(
        self, requests: Iterable[Request], unjudged: Sequence[Item], name: Name, ahead: Ahead | None = None
    ) -> Iterator[Candidate | Verdict]:
        workers = Workers(self._random, self._rates, self._counts, self)
        in_flight = self._random.randint(1, 12)
        for item in Pool(workers, requests, unjudged, name, in_flight, workers.clock).run():
            if isinstance(item, Candidate):
                self.drawn.append(item.id)
            yield item
        self._counts.wall_s += workers.now

    def upkeep(self) -> Upkeep:
        return Upkeep({})

    def finished(self, request: Request, sample: int) -> Finished:
        text = _text(request, sample, self._skill)
        return Finished(request.prompt.id, sample, (*map(ord, text), 0), text, "stop", f"skill{self._skill}")

    def judged(self, items: Sequence[Item]) -> list[Verdict]:
        return [_verdict(prompt, candidate) for prompt, candidate in items]

    def imitate(self, policy: Policy, examples: Path, training: Training, out: Path, work: Path) -> dict[str, float]:
        return self._trained(policy, examples, Example, out)

    def prefer(
        self,
        policy: Policy,
        reference: Policy,
        pairs: Path,
        objective: Objective,
        training: Training,
        out: Path,
        work: Path,
        kept: Path,
    ) -> dict[str, float]:
        return self._trained(policy, pairs, Pair, out)

    def close(self) -> None:
        pass

    def _trained(self, policy: Policy, rows: Path, kind: type, out: Path) -> dict[str, float]:
        with self._files.open(rows) as stream:
            count = len(list(artefact_rows(stream, kind, rows)))
        self._files.write(out / "skill", str(int(policy.version.removeprefix("skill")) + 1).encode())
        return {"rows": float(count)}


@cache
def _rote() -> Rote:
    return Rote(CONFIG, BOOK)


@cache
def _text(request: Request, sample: int, skill: int) -> str:
    rote = _rote()
    rote._skill = skill
    return rote._candidate(request, sample, "").text


@cache
def _verdict(prompt: Prompt, candidate: Candidate) -> Verdict:
    return _rote()._judge.judge([(prompt, candidate)])[0]


@contextmanager
def _phase(name: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda n: None


def _start(disk: Disk, backend: Simulated) -> None:
    """One start of the driver, to its end."""
    mix = _mix()
    greedy = Sampling(0.0, 64)
    asked = [Request(p, Letters().render(p.text), (0,), greedy) for p in mix.evaluate]
    with RunDir.open(ROOT, CONFIG, files=disk, note=lambda message: None) as directory:
        task = Task(CONFIG, backend.policy(BASE), mix.train, BOOK, Letters(), _teacher())
        scene = Scene(backend, directory, CONFIG, asked, _phase, lambda line: None)
        align(METHODS[CONFIG.method](CONFIG), task, scene, directory)


@cache
def _teacher() -> TemplateTeacher:
    return TemplateTeacher()


def simulate(seed: int, rates: Rates, starts: int = 40) -> tuple[Disk, Counts]:
    """A run from its first start to its end, with faults drawn from `seed`. RunFailed when `starts` are not enough."""
    random, counts = Random(seed), Counts()
    disk, acknowledged = Disk({"/": "dir", str(BASE): "dir", str(BASE / "skill"): 1}, {1: b"0"}), set()
    while counts.starts < starts:
        counts.starts += 1
        if random.random() < rates.cut:
            counts.faults += 1
            disk.cut_at = random.choice((random.randint(1, 40), random.randint(1, 700)))
        backend = Simulated(disk, random, rates, counts)
        try:
            _start(disk, backend)
        except PowerCut:
            counts.doubled |= acknowledged & set(backend.drawn)
            images = list(disk.images())
            acknowledged |= next(candidates(image) for kind, image in images if kind == "unsynced lost")
            _, image = random.choice(images)
            disk = Disk(image.live, image.data)
            counts.lost |= acknowledged - candidates(disk)
            continue
        except RunFailed as error:
            if "times in a row" not in str(error):
                raise
            counts.doubled |= acknowledged & set(backend.drawn)
            acknowledged |= candidates(disk)
            disk = Disk(disk.live, disk.data)
            continue
        counts.doubled |= acknowledged & set(backend.drawn)
        counts.lost |= acknowledged - candidates(disk)
        return disk, counts
    raise RunFailed(f"seed {seed}: no end after {starts} starts")


def candidates(disk: Disk) -> set[str]:
    """Ids of all whole candidates on a disk."""
    found = set()
    for path in disk.live:
        if path.endswith("candidates.jsonl"):
            for raw in disk.read(Path(path)).splitlines(keepends=True):
                if (verified := verify(raw)) and verified[0].row:
                    found.add(decode(bytes(verified[0].row), Candidate).id)
    return found


def made(disk: Disk) -> dict[str, bytes]:
    """Examples and pairs of a run, as bytes."""
    return {
        path: disk.read(Path(path))
        for path in disk.live
        if path.endswith(("examples.jsonl", "pairs.jsonl", "left_out.jsonl", "outcome.json"))
    }


def doubled(disk: Disk) -> list[str]:
    """Ids that stand in a ledger of the run more than once."""
    found = []
    for path in disk.live:
        if path.endswith("candidates.jsonl"):
            rows = [row.id for row in Ledger(disk, Path(path), Candidate, read_only=True)]
            found += [key for key in set(rows) if rows.count(key) > 1]
    return found
