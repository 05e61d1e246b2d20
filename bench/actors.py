"""A round of rollouts with 8, 64 and 256 rollout workers: seconds on paper beside those of a simulation.

python bench/actors.py [--prompts 5000]

Paper is the model of docs/scale.md: all places of all engines draw all of the time. The simulation is the rollout loop
itself with its ledgers on disk, and engines that only sleep for as long as that model says a token takes, on a clock
that also counts what the driver computes and waits for the disk.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import driver
from processes import alone
from scale import GPU, MODELS, PROMPT_TOKENS, table
from sleepers import Lengths, Load

from erpo_ray import scale

ACTORS = (8, 64, 256)
PLACES = 32
"""Of an engine: a quarter of the usual, so that a round that a reader can wait for fills 256 of them."""
PROMPTS = 5000
LENGTHS = Lengths(150, 0.5, 768)
MODEL = MODELS["8B"]
GPUS = 2
"""An engine is cut over, as in docs/scale.md."""
VERDICT_S = 0.0002


@dataclass(frozen=True, slots=True)
class Round:
    """A round by so many actors: seconds on paper with the tokens that were drawn, and in the simulation."""

    actors: int
    paper: float
    simulated: float
    busy: float
    driver: float
    """Seconds that it computes, within those of the simulation."""


def token_seconds() -> float:
    """Of one sequence, in an engine with all places taken: half of a completion is there on average."""
    rate = scale.sampling_rate(MODEL, GPU, PLACES, PROMPT_TOKENS + LENGTHS.median / 2, GPUS)
    return PLACES / rate


def simulated(actors: int, prompts: int, lengths: Lengths = LENGTHS) -> Round:
    """Four samples of each prompt, by engines and as many judges."""
    load = Load(actors, PLACES, actors, lengths, token_seconds(), VERDICT_S)
    one: driver.Pass = alone(driver.sampled, load, prompts * driver.SAMPLES)
    paper = one.tokens * load.token_s / (actors * PLACES)
    return Round(actors, paper, one.seconds, one.overall, one.computed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="of a round, with four samples each")
    prompts = parser.parse_args().prompts
    print(table(("actors", "paper s", "simulated s", "places busy", "driver s"), ()))
    for actors in ACTORS:
        r = simulated(actors, prompts)
        print(f"| {r.actors} | {r.paper:.1f} | {r.simulated:.1f} | {r.busy:.0%} | {r.driver:.1f} |", flush=True)


if __name__ == "__main__":
    main()
