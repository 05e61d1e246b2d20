"""What the driver itself takes: the rollout loop and the ledgers, with engines and judges that only sleep.

python bench/driver.py [--short]

`scale` runs 64 workers over more and more candidates of 60 tokens, each size in a process of its own: the driver's
microseconds a candidate (computing, waiting for the disk, and reading all groups from the ledgers afterwards) and the
most memory held beyond the requests. `workers`
is the share of time in which the slots of 64 engines draw, with long-tailed lengths: until the last prompt is handed
out, and to the end. Pairing and ledgers are counted by what one core does in a second of computing. `--short` is a
smoke test: it takes seconds and holds nothing to a goal.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from processes import alone
from sleepers import Disk, Lengths, Load, Sleepers
from table import Measure, end

from erpo_ray.backend import Ahead, Name
from erpo_ray.cluster.pool import Pool
from erpo_ray.cluster.protocol import Item
from erpo_ray.config import Config, Prefer
from erpo_ray.explore import Part, sample
from erpo_ray.pairs import choose
from erpo_ray.rundir import Ledger, RunDir, StageDir
from erpo_ray.types import (
    Candidate,
    Group,
    Policy,
    Prompt,
    Request,
    Sampling,
    Scores,
    Verdict,
    identity,
)

MIB = 2**20
SAMPLES = 4
TURNS = 3
IN_FLIGHT = Config().cluster.in_flight
EVEN = Load(64, IN_FLIGHT, 8, Lengths(60, 0.25, 120), token_s=0.02, verdict_s=0.0002)
TAILED = Load(64, IN_FLIGHT, 8, Lengths(150, 0.8, 1024), token_s=0.02, verdict_s=0.0002)
POLICY = Policy(Path("none"), "0" * 16)
WORDS = "assessment harmful harmless path refuse answer a lock opens when pins line up and the key turns".split()


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass over the prompts came to. Seconds of the driver, bytes, shares of time, and of the pass itself
    seconds and tokens drawn."""

    computed: float
    waited: float
    read: float
    before: int
    peak: int
    fed: float
    overall: float
    seconds: float
    tokens: int


class Asleep:
    """The backend that the rollout loop sees."""

    def __init__(self, crew: Sleepers, in_flight: int) -> None:
        self._crew, self._in_flight = crew, in_flight
        self.fed = 0.0

    def prepare(self, policy: Policy) -> None: ...

    def rollouts(
        self, requests: Sequence[Request], unjudged: Sequence[Item], name: Name, ahead: Ahead | None = None
    ) -> Iterator[Candidate | Verdict]:
        return Pool(self._crew, self._handed(requests), unjudged, name, self._in_flight, self._crew.now).run()

    def _handed(self, requests: Iterable[Request]) -> Iterator[Request]:
        yield from requests
        self.fed = self._crew.now()


def requests(candidates: int) -> list[Request]:
    """Prompts of 40 tokens, four samples each."""
    random, draw, samples = Random(0), Sampling(1.0, TAILED.lengths.longest), tuple(range(SAMPLES))
    return [
        Request(
            Prompt(f"prompt-{i}", f"Tell me {i} things about locks, and why each of them matters.", "benign"),
            tuple(random.randrange(49152) for _ in range(40)),
            samples,
            draw,
        )
        for i in range(candidates // SAMPLES)
    ]


@contextmanager
def stage(disk: Disk) -> Iterator[tuple[str, StageDir]]:
    """A run's id and a stage of it, thrown away at the end."""
    with tempfile.TemporaryDirectory() as folder, RunDir.open(Path(folder) / "run", Config(), files=disk) as run:
        with run.stage("01-prefer") as s:
            yield run.id, s


@contextmanager
def unseen(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar that nobody looks at."""
    yield lambda done: None


def memory(field: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


def sampled(load: Load, candidates: int) -> Pass:
    """One pass of the rollout loop into the ledgers of a stage, and its groups once."""
    asked, disk = requests(candidates), Disk()
    crew = Sleepers(load, disk)
    backend: Any = Asleep(crew, load.slots)
    with stage(disk) as (run, s):
        before, computed, waited = memory("VmRSS"), crew.computed, disk.waited
        (part,) = sample([Part.of(s, asked, run, 1.0)], POLICY, backend, run, unseen)
        total, computed, waited = crew.now(), crew.computed - computed, disk.waited - waited
        begun = time.process_time()
        deque(part.groups(run), 0)
        return Pass(
            computed, waited, time.process_time() - begun, before, memory("VmHWM"),
            share(crew, load, backend.fed), share(crew, load, total), total, crew.tokens,
        )  # fmt: skip


def share(crew: Sleepers, load: Load, until: float) -> float:
    """Of all slot seconds up to a moment, those in which a slot drew."""
    busy = sum(
        span.busy * min(1.0, (until - span.begun) / (span.ended - span.begun))
        for span in crew.spans
        if span.begun < until and span.ended > span.begun
    )
    return busy / (load.workers * load.slots * until)


def judged(candidates: int) -> list[Group]:
    """Groups of four candidates that differ in all that pairing looks at."""
    random = Random(0)

    def one(prompt: Prompt, k: int) -> tuple[Candidate, Verdict]:
        length = random.randrange(40, 80)
        ids, text = tuple(random.randrange(49152) for _ in range(length)), " ".join(random.choices(WORDS, k=length))
        finish = "stop" if random.random() < 0.95 else "length"
        candidate = Candidate(identity(prompt.id, k), prompt.id, k, ids, text, finish, POLICY.version, 1.25)
        scores = Scores(random.choice((1.0, 1.0, 1.0, -1.0)), random.uniform(-0.5, 1.0), length)
        refused = random.random() < (0.8 if prompt.label == "harmful" else 0.2)
        return candidate, Verdict(candidate.id, "none", scores, refused=refused, well_formed=random.random() < 0.9)

    groups = []
    for i in range(candidates // SAMPLES):
        prompt = Prompt(f"prompt-{i}", "Tell me about locks.", "harmful" if i % 2 else "benign")
        both = [one(prompt, k) for k in range(SAMPLES)]
        groups.append(Group(prompt, tuple(range(40)), tuple(c for c, _ in both), tuple(v for _, v in both)))
    return groups


def paired(groups: Sequence[Group], prefer_short: bool) -> float:
    """Candidates a second, all groups at once, as ERPO's stage 2 and its later rounds pair them."""
    settings = Prefer(max_pairs=len(groups))
    begun = time.process_time()
    choose(groups, settings, cap={"harmful": 60, "benign": 60}, prefer_short=prefer_short, seed=0)
    return SAMPLES * len(groups) / (time.process_time() - begun)


def appended(groups: Sequence[Group]) -> tuple[float, float]:
    """Lines a second: candidates, then their verdicts."""
    with stage(Disk()) as (_, s):
        candidates = s.ledger("candidates.jsonl", Candidate)
        verdicts = s.ledger("verdicts.jsonl", Verdict, after=candidates)

        def rate(ledger: Ledger[Any], rows: Iterable[Any]) -> float:
            begun = time.process_time()
            for row in rows:
                ledger.append(row)
            ledger.sync()
            return len(ledger) / (time.process_time() - begun)

        return (
            rate(candidates, (one for group in groups for one in group.candidates)),
            rate(verdicts, (one for group in groups for one in group.verdicts)),
        )


def scale(sizes: Sequence[int], turns: int) -> list[Measure]:
    """The table of sizes, all but the largest as medians: a moment's noise is a large share of a short pass."""
    heads = "us computed", "us disk", "us read", "MiB before", "MiB peak", "bytes each"
    print("candidates" + "".join(head.rjust(len(head) + 2) for head in heads))
    computed, grown = {}, {}
    for size in sizes:
        passes = [alone(sampled, EVEN, size) for _ in range(1 if size == max(sizes) else turns)]
        computed[size] = median(one.computed for one in passes) / size
        waited, read = (median(getattr(one, name) for one in passes) / size for name in ("waited", "read"))
        before, peak = (median(getattr(one, name) for one in passes) for name in ("before", "peak"))
        grown[size] = peak - before
        print(
            f"{size:10}{computed[size] * 1e6:13.1f}{waited * 1e6:9.1f}{read * 1e6:9.1f}"
            f"{before / MIB:12.0f}{peak / MIB:10.0f}"
            f"{grown[size] / size:12.0f}",
            flush=True,
        )
    few, many = sizes[-3], sizes[-1]
    return [
        Measure(f"driver: seconds a candidate, {many} to {few}", computed[many] / computed[few], "<=", 1.25),
        Measure(
            f"driver: bytes a candidate from {sizes[-2]} to {many}",
            (grown[many] - grown[sizes[-2]]) / (many - sizes[-2]), "<=", 100,
        ),
    ]  # fmt: skip


def workers(candidates: int) -> list[Measure]:
    one: Pass = alone(sampled, TAILED, candidates)
    print(
        f"\n{TAILED.workers} workers of {TAILED.slots} slots, {candidates} candidates: "
        f"the driver computes {one.computed / candidates * 1e6:.0f} us a candidate"
    )
    return [
        Measure(f"{TAILED.workers} workers: busy until all is handed out", one.fed, ">=", 0.9),
        Measure(f"{TAILED.workers} workers: busy to the end", one.overall, ">=", 0.9),
    ]


def rates(candidates: int) -> list[Measure]:
    groups = judged(candidates)
    lines = [median(each) for each in zip(*(appended(groups) for _ in range(TURNS)), strict=True)]
    print(f"ledgers: {1 / sum(1 / rate for rate in lines):.0f} candidates a second with a line for the verdict of each")
    found = {
        "candidates paired in stage 2": median(paired(groups, prefer_short=False) for _ in range(TURNS)),
        "candidates paired in a round": median(paired(groups, prefer_short=True) for _ in range(TURNS)),
        "candidates into the ledger": lines[0],
        "verdicts into the ledger": lines[1],
    }
    return [Measure(f"{name}, a second", rate, ">=", 50_000) for name, rate in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a smoke test of some seconds, without goals")
    short = parser.parse_args().short
    sizes = (100, 400, 1600) if short else (1_000, 10_000, 100_000, 1_000_000)
    measures = scale(sizes, 1 if short else TURNS)
    measures += workers(4_000 if short else 400_000)
    measures += rates(400 if short else 100_000)
    end(measures, held=not short)


if __name__ == "__main__":
    main()
