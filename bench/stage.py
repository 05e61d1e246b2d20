"""A prefer round in the midst of a run beside what its sampling and its training take alone.

python bench/stage.py POLICY [--turns 5] [--prompts N]

POLICY is a model directory that the demo's imitate stage made. In each turn two rounds are played on the same workers,
of which the later one counts, from the end of what came before it until its model is on disk. Then, in a fresh process
each: one call of `vllm.LLM.generate` for the same prompts and samples, its seconds scaled to as many tokens as the
round drew; and the optimiser steps of the round's trainer on the round's pairs. Neither has the start of a process, an
engine or a model in it, nor judging, reference log-probabilities, pairing, ledgers or weights: what a round takes
beyond the sum of both is what it does not hide.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from processes import alone
from rollout import Drawn, bare
from rounds import Round, demo, explored, only, play, round_of, standing
from table import Measure, end

from erpo_ray import environment
from erpo_ray.config import Config
from erpo_ray.rundir.lines import ledger_rows, read_rows
from erpo_ray.scene import KEPT
from erpo_ray.types import Candidate, Pair, Prompt

GOAL = 1.05


@dataclass(frozen=True, slots=True)
class Later:
    """The second of two rounds: itself, its directory, what it asked and how many tokens it drew."""

    round: Round
    stage: Path
    prompts: list[Prompt]
    tokens: int


def later(config: Config, folder: Path) -> Later:
    """Two rounds on the same workers."""
    with standing(config):
        play(config, "prefer", folder / "first")
        stage = play(config, "prefer", folder / "later")
    tokens = sum(len(one.token_ids) for one in ledger_rows(stage / "candidates.jsonl", Candidate))
    return Later(round_of(stage), stage, explored(stage), tokens)


def training(start: Path, config: Config, stage: Path) -> float:
    """Seconds of the steps on the pairs of a round, whose reference log-probabilities its run has kept."""
    from erpo_ray.train import dpo

    prefer = only("prefer")(config)[0]
    assert prefer.kind == "prefer"
    rows, kept = read_rows(stage / "pairs.jsonl", Pair), stage.parents[1] / KEPT
    with tempfile.TemporaryDirectory() as out:
        facts = dpo.prefer(start, start, rows, prefer.objective, prefer.training, Path(out), kept=kept)
    return facts["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--prompts", type=int, help="of a round, in place of the demo's")
    given = parser.parse_args()
    environment.apply()
    start = given.policy.resolve()
    config = demo(start, given.prompts)
    ratios = []
    print(f"{'round s':>8}{'sampling s':>12}{'training s':>12}{'ratio':>8}")
    for _ in range(given.turns):
        with tempfile.TemporaryDirectory() as name:
            whole: Later = alone(later, config, Path(name))
            drawn: Drawn = alone(bare, start, whole.prompts, config)
            trained: float = alone(training, start, config, whole.stage)
        sampled = drawn.seconds * whole.tokens / drawn.tokens
        ratios.append(whole.round.seconds / (sampled + trained))
        print(f"{whole.round.seconds:8.1f}{sampled:12.1f}{trained:12.1f}{ratios[-1]:8.3f}", flush=True)
    end([Measure("prefer round: to its sampling and training alone", median(ratios), "<=", GOAL)])


if __name__ == "__main__":
    main()
