"""How long the command line takes until it answers, and `erpo run` until its first sampled token.

python bench/startup.py [MODEL] [--turns 5]

Processes of their own, medians over the turns: `erpo --help`, the imports of `erpo plan` (the command line and what the
command itself is made of), and all of `erpo plan configs/demo.yaml`. That one needs the model's tokenizer; beside it
stand the packages whose import takes most, as `python -X importtime` tells them (which takes time itself).

With a model also, by turns: `erpo run configs/demo.yaml` in a new directory until its first completion, of one token,
is in the ledger; and a process that starts one bare vLLM engine with the demo's settings and draws one token.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from processes import alone
from table import Measure, end

from erpo_ray import environment

ROOT = Path(__file__).parents[1]
GOAL_S, GOAL_STARTS = 0.5, 1.2
POLL_S, DEADLINE_S = 0.05, 600.0
HELP = ("-m", "erpo_ray", "--help")
IMPORTS = ("-c", "import erpo_ray.cli, erpo_ray.commands.plan")
DEMO = ROOT / "configs" / "demo.yaml"
PLAN = ("-m", "erpo_ray", "plan", "configs/demo.yaml")


def python(*arguments: str) -> str:
    """What such a process says on stderr."""
    command = [sys.executable, *arguments]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stderr


def seconds(arguments: tuple[str, ...], turns: int) -> float:
    python(*arguments)  # the first reads from the disk
    taken = []
    for _ in range(turns):
        begun = time.perf_counter()
        python(*arguments)
        taken.append(time.perf_counter() - begun)
    return median(taken)


def imports(arguments: tuple[str, ...]) -> dict[str, float]:
    """Seconds that each top package takes by itself, without what it loads of others."""
    spent: dict[str, float] = {}
    for line in python("-X", "importtime", *arguments).splitlines():
        own, *_, name = line.removeprefix("import time:").split("|")
        if own.strip().isdigit():
            package = name.strip().partition(".")[0]
            spent[package] = spent.get(package, 0.0) + int(own) / 1e6
    return spent


def bare(model: Path) -> None:
    """One engine, one token."""
    from vllm import SamplingParams

    from erpo_ray import settings
    from erpo_ray.cluster.workers import engine_settings
    from erpo_ray.engines import vllm
    from erpo_ray.engines.devices import cuda_names

    engine = vllm.start(model, engine_settings(settings.load(DEMO), bool(cuda_names())))
    engine.generate(["My neighbour asks how a lock works."], SamplingParams(max_tokens=1), use_tqdm=False)


def first_token(model: Path) -> float:
    """Seconds from the start of `erpo run` until something that it sampled is on disk."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "run" / "stages" / "base" / "evaluation_candidates.jsonl"
        command = [sys.executable, "-m", "erpo_ray", "run", str(DEMO), "--run-dir", str(Path(folder) / "run")]
        changes = [f"model.path={model}", "evaluate.max_tokens=1", "evaluate.per_source=2"]
        begun = time.perf_counter()
        with subprocess.Popen([*command, *changes], cwd=ROOT, stdout=subprocess.DEVNULL) as run:
            try:
                while not (ledger.exists() and ledger.stat().st_size):
                    if run.poll() is not None or time.perf_counter() - begun > DEADLINE_S:
                        sys.exit(f"erpo run drew nothing (exit code {run.returncode})")
                    time.sleep(POLL_S)
                return time.perf_counter() - begun
            finally:
                run.terminate()


def starts(model: Path, turns: int) -> Measure:
    """Both, by turns."""
    ratios = []
    print(f"{'bare s':>8}{'erpo run s':>12}{'ratio':>8}")
    for _ in range(turns):
        begun = time.perf_counter()
        alone(bare, model)
        plain = time.perf_counter() - begun
        whole = first_token(model)
        ratios.append(whole / plain)
        print(f"{plain:8.1f}{whole:12.1f}{ratios[-1]:8.2f}", flush=True)
    return Measure("startup: erpo run to its first token, to bare vLLM", median(ratios), "<=", GOAL_STARTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    turns = given.turns
    environment.apply()
    measures = [
        Measure("startup: seconds of --help", seconds(HELP, turns), "<=", GOAL_S),
        Measure("startup: seconds of the imports of plan", seconds(IMPORTS, turns), "<=", GOAL_S),
    ]
    spent = imports(PLAN)
    slowest = sorted(spent, key=lambda package: -spent[package])[:5]
    print(
        f"plan as a whole {seconds(PLAN, turns):.2f} s; imports {sum(spent.values()):.2f} s, of which "
        + ", ".join(f"{package} {spent[package]:.2f}" for package in slowest)
    )
    if given.model:
        from erpo_ray.engines.models import materialise

        measures.append(starts(materialise(given.model), turns))
    end(measures)


if __name__ == "__main__":
    main()
