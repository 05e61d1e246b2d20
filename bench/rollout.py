"""The rollout pool with one worker beside one bare `vllm.LLM.generate`, and weights in place beside an engine anew.

python bench/rollout.py MODEL [--turns 5] [--limit N]

Both sides draw what a prefer round of the demo draws (its prompts, samples, sampling and engine settings), in a fresh
process each, by turns. On neither clock is the start of an engine, nor a first short completion.

On the clock of `bare`: one call of `generate`, from token ids to completions with their text.
On the clock of `pool`: `backend.rollouts` on Ray, from the requests to the last verdict in the driver: the engine in
its actor, the text, the driver, and all messages between them. Verdicts are made here from nothing, since it is the
pool that is measured: a real judge needs cores too, and `evaluate.py` has one.

In place: `backend.prepare` with other weights, engine up and cached prompts forgotten, proved by the canary of the
engine beside the one that their trainer left with them. Anew: the worker is killed, and another one starts with these
weights until it answers; without a canary.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from processes import alone
from table import Measure, end

from erpo_ray import environment, rules, settings
from erpo_ray.config import Config
from erpo_ray.prompts import mixing
from erpo_ray.types import Candidate, Prompt, Request, Sampling, Scores, Verdict, identity

DEMO = Path(__file__).parents[1] / "configs" / "demo.yaml"
GOAL, GOAL_IN_PLACE = 0.97, 1 / 15
LOADS = 3
"""Times that weights are loaded in place in each process."""
WARM = "My neighbour asks how a lock works."
WARM_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Drawn:
    """Completion tokens and the seconds they took."""

    tokens: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


@dataclass(frozen=True, slots=True)
class Pooled:
    """What the pool drew, and seconds of a load in place and of an engine anew."""

    drawn: Drawn
    in_place: float
    anew: float


def asked(config: Config, limit: int | None) -> list[Prompt]:
    """The prompts of a round: as many of each label, over all categories."""
    mix = mixing.gather(config.data, tuple(rules.load().categories), config.seed)
    return mixing.choose_balanced(mix.train, *config.prefer.explored, config.seed)[:limit]


def bare(model: Path, prompts: Sequence[Prompt], config: Config) -> Drawn:
    """vLLM alone."""
    from vllm import SamplingParams

    from erpo_ray.cluster.workers import engine_settings
    from erpo_ray.engines import vllm
    from erpo_ray.engines.devices import cuda_names
    from erpo_ray.engines.renderer import Renderer

    renderer, draw = Renderer(model), config.prefer.draw

    def ids(text: str) -> dict[str, list[int]]:
        return {"prompt_token_ids": list(renderer.render(text))}

    def sampling(n: int, max_tokens: int) -> Any:
        return SamplingParams(
            n=n, temperature=draw.temperature, top_k=draw.top_k, top_p=draw.top_p, min_p=draw.min_p,
            max_tokens=max_tokens, stop_token_ids=list(renderer.stop_ids),
        )  # fmt: skip

    engine = vllm.start(model, engine_settings(config, bool(cuda_names())))
    engine.generate([ids(WARM)], sampling(1, WARM_TOKENS), use_tqdm=False)
    rendered = [ids(prompt.text) for prompt in prompts]
    begun = time.monotonic()
    outputs = engine.generate(rendered, sampling(config.prefer.samples, draw.max_tokens), use_tqdm=False)
    seconds = time.monotonic() - begun
    return Drawn(sum(len(one.token_ids) for output in outputs for one in output.outputs), seconds)


def pooled(model: Path, other: Path, prompts: Sequence[Prompt], config: Config) -> Pooled:
    """The pool on Ray, then the two ways to other weights. Both models have the proof of a trainer."""
    import ray

    from erpo_ray.cluster import backend as backends
    from erpo_ray.cluster.crew import RayCrew
    from erpo_ray.engines.renderer import Renderer

    class Unjudged(RayCrew):
        """Its judges say at once what costs nothing."""

        def judge(self, worker: int, items: Sequence[tuple[Prompt, Candidate]]) -> Any:
            return ray.put([Verdict(one.id, "none", Scores(0.0, 0.0, len(one.token_ids))) for _, one in items])

    backends.RayCrew = Unjudged
    renderer, sampling = Renderer(model), config.prefer.draw.sampling()
    samples = tuple(range(config.prefer.samples))
    backend = backends.RayBackend(config)
    crew: Any = backend._crew
    try:
        first, second = backend.policy(model), backend.policy(other)
        backend.prepare(first)
        warm = Request(Prompt("warm", WARM), renderer.render(WARM), (0,), Sampling(1.0, WARM_TOKENS))
        list(backend.rollouts([warm], (), identity))
        requests = [Request(prompt, renderer.render(prompt.text), samples, sampling) for prompt in prompts]
        begun = time.monotonic()
        found = list(backend.rollouts(requests, (), identity))
        drawn = Drawn(sum(len(one.token_ids) for one in found if isinstance(one, Candidate)), time.monotonic() - begun)
        loads = [_seconds(backend.prepare, second if turn % 2 == 0 else first) for turn in range(LOADS)]
        crew.replace_rollout(0)
        return Pooled(drawn, median(loads), _seconds(crew.begin, 0))
    finally:
        backend.close()


def _seconds(call: Callable[..., object], *arguments: object) -> float:
    begun = time.monotonic()
    call(*arguments)
    return time.monotonic() - begun


def written(model: Path, factor: float, out: Path) -> None:
    """The same model with its last norm larger by a factor, and what a trainer leaves beside it."""
    import torch

    from erpo_ray.cluster import canary as proof
    from erpo_ray.engines.renderer import Renderer
    from erpo_ray.train import canary, models

    policy: Any = models.load(model)
    with torch.no_grad():
        policy.get_decoder().norm.weight *= factor
    models.save(policy, model, out, seed=0)
    renderer = Renderer(out)
    canary.sign(out, renderer.render(proof.PROMPT), renderer.encode_completion(proof.COMPLETION))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--limit", type=int, help="prompts, of those of a round")
    given = parser.parse_args()
    environment.apply()
    from erpo_ray.engines.models import materialise

    config, model = settings.load(DEMO), materialise(given.model)
    prompts = asked(config, given.limit)
    prefer = config.prefer
    print(f"{len(prompts)} prompts, {prefer.samples} samples each, at most {prefer.draw.max_tokens} tokens")
    print(f"{'bare tokens/s':>13}{'pool tokens/s':>15}{'ratio':>8}{'in place s':>13}{'anew s':>9}{'ratio':>8}")
    rates, loads = [], []
    with tempfile.TemporaryDirectory() as folder:
        same, other = Path(folder) / "same", Path(folder) / "other"
        alone(written, model, 1.0, same)
        alone(written, model, 1.05, other)
        for _ in range(given.turns):
            plain: Drawn = alone(bare, model, prompts, config)
            ours: Pooled = alone(pooled, same, other, prompts, config)
            rates.append(ours.drawn.rate / plain.rate)
            loads.append(ours.in_place / ours.anew)
            print(
                f"{plain.rate:13.0f}{ours.drawn.rate:15.0f}{rates[-1]:8.3f}{ours.in_place:13.2f}{ours.anew:9.1f}"
                f"{loads[-1]:8.3f}",
                flush=True,
            )
    end(
        [
            Measure("rollout: tokens a second, pool to bare vLLM", median(rates), ">=", GOAL),
            Measure("weights: in place to an engine anew", median(loads), "<=", GOAL_IN_PLACE),
        ]
    )


if __name__ == "__main__":
    main()
