"""What `erpo eval` takes beside bare vLLM: the same prompts, rendered the same, drawn greedily by the same engine.

python bench/evaluate.py MODEL FILE... [--max-tokens 128] [--limit N] [--rounds R]

Bare is one `vllm.LLM.generate` over all prompts, in the order of the suites. Both run in a process of their own, by
turns. `work` is from the first request to the last result: sampled text, and for erpo also verdicts and measures on
disk. `whole` is the process, with the start of Python, engine and Ray.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from processes import alone
from table import Measure, end

from erpo_ray import environment, launch, rules
from erpo_ray.config import Config
from erpo_ray.evaluate import suite as suites
from erpo_ray.rundir import Files, Ledger
from erpo_ray.types import Candidate

GOAL = 1.1
Asked = list[tuple[suites.Suite, list[suites.Question]]]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of `work`, and completion tokens."""

    work: float
    tokens: int


def bare(model: Path, asked: Asked, config: Config) -> Timing:
    """vLLM alone."""
    from vllm import SamplingParams

    from erpo_ray.cluster.workers import engine_settings
    from erpo_ray.engines import vllm
    from erpo_ray.engines.devices import cuda_names
    from erpo_ray.engines.renderer import Renderer

    renderer = Renderer(model)
    prompts = [{"prompt_token_ids": list(renderer.render(q.prompt.text))} for _, questions in asked for q in questions]
    sampling = SamplingParams(
        temperature=0.0, max_tokens=config.evaluate.max_tokens, stop_token_ids=list(renderer.stop_ids)
    )
    engine = vllm.start(model, engine_settings(config, bool(cuda_names())))
    begun = time.monotonic()
    outputs = engine.generate(prompts, sampling, use_tqdm=False)
    work = time.monotonic() - begun
    return Timing(work, sum(len(one.outputs[0].token_ids) for one in outputs))


def ours(model: Path, asked: Asked, config: Config) -> Timing:
    """`erpo eval` on the Ray backend, into a directory that is thrown away."""
    moments: list[float] = []
    make = launch.backend_of

    def watched(*arguments: Any) -> Any:
        """The backend, with the moments noted at which it is first ready and at which it is let go."""
        backend: Any = make(*arguments)
        prepare, close = backend.prepare, backend.close

        def ready(policy: Any) -> None:
            prepare(policy)
            moments.append(time.monotonic())

        def gone() -> None:
            moments.append(time.monotonic())
            close()

        backend.prepare, backend.close = ready, gone
        return backend

    launch.backend_of = watched
    with tempfile.TemporaryDirectory() as folder:
        launch.evaluate(model, asked, config, Path(folder) / "out", say=lambda message: None)
        ledgers = sorted(Path(folder).glob("out/stages/*/candidates.jsonl"))
        found = (one for path in ledgers for one in Ledger(Files(), path, Candidate, read_only=True))
        tokens = sum(len(one.token_ids) for one in found)
    return Timing(moments[-1] - moments[0], tokens)


def timed(measure: Callable[..., Timing], *arguments: Any) -> tuple[Timing, float]:
    """The measure in a fresh process, and the seconds that the process took."""
    begun = time.monotonic()
    return alone(measure, *arguments), time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--limit", type=int, help="prompts of each label and file")
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    environment.apply()
    from erpo_ray.engines.models import materialise

    config = Config.model_validate({"evaluate": {"max_tokens": given.max_tokens}})
    categories = tuple(rules.load().categories)
    named = [suites.of_file(file) for file in given.files]
    asked = [(suite, suites.questions(suite, "", categories, 0, given.limit)) for suite in named]
    model = materialise(given.model)
    print(f"{sum(len(questions) for _, questions in asked)} prompts, at most {given.max_tokens} tokens each")
    print(f"{'':10}{'work s':>10}{'whole s':>10}{'tokens':>10}")
    ratios: list[tuple[float, float]] = []
    for _ in range(given.rounds):
        rows = {name: timed(measure, model, asked, config) for name, measure in (("bare vLLM", bare), ("erpo", ours))}
        for name, (timing, whole) in rows.items():
            print(f"{name:10}{timing.work:10.1f}{whole:10.1f}{timing.tokens:10}")
        (plain, plain_whole), (erpo, erpo_whole) = rows["bare vLLM"], rows["erpo"]
        ratios.append((erpo.work / plain.work, erpo_whole / plain_whole))
        print(f"{'ratio':10}{ratios[-1][0]:10.3f}{ratios[-1][1]:10.3f}", flush=True)
    work, whole = (median(each) for each in zip(*ratios, strict=True))
    end([Measure("evaluate: work to bare vLLM", work, "<=", GOAL), Measure("evaluate: whole", whole, "<=", GOAL)])


if __name__ == "__main__":
    main()
