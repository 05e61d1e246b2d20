"""A round one step off (`overlap=next_round`), with an engine and a trainer that only sleep, as if on their own cores.

python bench/overlap.py [--short]

The loop, the run directory, pairing and the gate are real. A round is what lies between two outcomes, less the
evaluation, which neither sampling nor training of another round may hide: its policy is what comes next. Beside it, the
longer of what sampling and training sleep, and the same rounds one after the other. The first round, whose samples
nobody drew ahead, and the last, which draws none, do not count. `--short` takes seconds and holds nothing to a goal.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, cast

from driver import WORDS, unseen
from table import Measure, end

from erpo_ray import rules
from erpo_ray.backend import Ahead, Name
from erpo_ray.cluster.pool import JUDGE_BATCH, Item
from erpo_ray.config import Config, JudgeRules
from erpo_ray.judging.rules_judge import RulesJudge
from erpo_ray.loop import align
from erpo_ray.methods.base import Task
from erpo_ray.methods.erpo import stages
from erpo_ray.rundir import RunDir
from erpo_ray.rundir.lines import plain_rows
from erpo_ray.scene import Scene
from erpo_ray.telemetry import Span
from erpo_ray.types import Candidate, Policy, Prompt, Request, Sampling, Scores, Verdict
from erpo_ray.usage import Upkeep

ROUNDS = 5
PROMPTS = 100
EVALUATION_S = 0.1


@dataclass(frozen=True, slots=True)
class Lasts:
    """Seconds that the samples of a round take, and its training."""

    sampling: float
    training: float


class Ids:
    """A renderer for prompts that nobody reads."""

    def render(self, text: str) -> tuple[int, ...]:
        return tuple(range(40))


class Sleeping:
    """A backend whose sampling and training take their seconds and no core."""

    def __init__(self, lasts: Lasts) -> None:
        self._lasts, self._random, self._served = lasts, Random(0), ""
        # Asked of canaries alone.
        self._judge = RulesJudge(JudgeRules(), rules.load(""), "lines", lambda pairs: [0.6] * len(pairs))

    def policy(self, path: Path) -> Policy:
        return Policy(path, (path / "version").read_text())

    def prepare(self, policy: Policy) -> None:
        self._served = policy.version

    def rollouts(
        self, requests: Sequence[Request], unjudged: Sequence[Item], name: Name, ahead: Ahead | None = None
    ) -> Iterator[Candidate | Verdict]:
        yield from self._judge.judge(list(unjudged))
        asked = [(request, sample) for request in requests for sample in request.samples]
        begun = time.monotonic()
        greedy = any(not request.sampling.temperature for request, _ in asked)
        seconds = EVALUATION_S if greedy else self._lasts.sampling
        for at in range(0, len(asked), JUDGE_BATCH):
            batch = asked[at : at + JUDGE_BATCH]
            time.sleep(max(0.0, begun + seconds * (at + len(batch)) / len(asked) - time.monotonic()))
            both = [self._drawn(request, name(request.prompt.id, k), k, greedy) for request, k in batch]
            yield from (candidate for candidate, _ in both)
            yield from (verdict for _, verdict in both)

    def _drawn(self, request: Request, name: str, sample: int, greedy: bool) -> tuple[Candidate, Verdict]:
        length, harmful = self._random.randrange(40, 80), request.prompt.label == "harmful"
        text = " ".join(self._random.choices(WORDS, k=length))
        candidate = Candidate(name, request.prompt.id, sample, tuple(range(length)), text, "stop", self._served)
        right = greedy or self._random.random() < 0.7
        scores = Scores(1.0 if right or not harmful else -1.0, 0.5, length)
        return candidate, Verdict(name, "none", scores, refused=harmful == right, well_formed=True)

    def prefer(self, policy: Policy, *settings: Any) -> dict[str, float]:
        time.sleep(self._lasts.training)
        out: Path = settings[4]
        (out / "version").write_text(f"{int(policy.version) + 1}")
        return {}

    def upkeep(self) -> Upkeep:
        return Upkeep({})


def rounds(lasts: Lasts, overlap: str) -> float:
    """Seconds of a round, the median of those in the middle."""
    config = Config.model_validate(
        {"overlap": overlap, "prefer": {"prompts": PROMPTS, "max_pairs": PROMPTS}, "rounds": {"count": ROUNDS - 1}}
    )
    prompts = tuple(
        Prompt(f"prompt-{i}", f"Tell me {i} things about locks.", "harmful" if i % 2 else "benign", f"category-{i % 7}")
        for i in range(2 * PROMPTS)
    )
    held = [Request(prompt, (1,), (0,), Sampling(0.0, 8)) for prompt in prompts[:20]]
    closed: list[float] = []
    with tempfile.TemporaryDirectory() as folder, RunDir.open(Path(folder) / "run", config) as run:
        (Path(folder) / "version").write_text("0")
        backend: Any = Sleeping(lasts)
        nobody: Any = None
        task = Task(config, backend.policy(Path(folder)), prompts, rules.load(""), cast(Any, Ids()), nobody)
        scene = Scene(backend, run, config, held, unseen, lambda line: closed.append(time.monotonic()))
        align(stages(config)[1:], task, scene, run)
        spans = [span.seconds for span in plain_rows(run.path / "phases.jsonl", Span) if span.phase == "evaluation"]
    took = [after - before - spent for (before, after), spent in zip(pairwise(closed), spans[1:], strict=True)]
    return median(took[1:-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a smoke test of some seconds, without goals")
    short = parser.parse_args().short
    cases = [Lasts(0.2, 0.2)] if short else [Lasts(4.0, 4.0), Lasts(5.0, 2.0), Lasts(2.0, 5.0)]
    measures = []
    print(f"{'sampling':>10}{'training':>10}{'one after the other':>21}{'one step off':>14}   seconds")
    for lasts in cases:
        plain, off = rounds(lasts, "none"), rounds(lasts, "next_round")
        print(f"{lasts.sampling:10.1f}{lasts.training:10.1f}{plain:21.2f}{off:14.2f}", flush=True)
        longer = max(lasts.sampling, lasts.training)
        measures.append(
            Measure(
                f"one step off, {lasts.sampling:g} s and {lasts.training:g} s: to the longer", off / longer, "<=", 1.1
            )
        )
    end(measures, held=not short)


if __name__ == "__main__":
    main()
