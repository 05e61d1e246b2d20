"""How long the command line takes until it answers.

python bench/startup.py [--turns 5]

Processes of their own, medians over the turns: `erpo --help`, the imports of `erpo plan` (the command line and what the
command itself is made of), and all of `erpo plan configs/demo.yaml`. That one needs the model's tokenizer; beside it
stand the packages whose import takes most, as `python -X importtime` tells them (which takes time itself).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from table import Measure, end

ROOT = Path(__file__).parents[1]
GOAL_S = 0.5
HELP = ("-m", "erpo_ray", "--help")
IMPORTS = ("-c", "import erpo_ray.cli, erpo_ray.commands.plan")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    turns = parser.parse_args().turns
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
    end(measures)


if __name__ == "__main__":
    main()
