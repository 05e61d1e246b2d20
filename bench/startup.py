"""How long the command line takes until it answers.

python bench/startup.py [--turns 5]

`--help` and `plan` are processes of their own, medians over the turns. Beside them stand the imports of one more
process as `python -X importtime` tells them (which takes time itself), and the packages with most of it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from table import Measure, end

ROOT = Path(__file__).parents[1]
GOAL_S = 0.5
COMMANDS = {"--help": ("--help",), "plan": ("plan", "configs/demo.yaml")}


def seconds(arguments: Sequence[str]) -> float:
    begun = time.perf_counter()
    erpo(arguments)
    return time.perf_counter() - begun


def erpo(arguments: Sequence[str], *python: str) -> str:
    """What it says on stderr."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *python, "-m", "erpo_ray", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stderr


def imports(arguments: Sequence[str]) -> dict[str, float]:
    """Seconds that each top package takes by itself, without what it loads of others."""
    spent: dict[str, float] = {}
    for line in erpo(arguments, "-X", "importtime").splitlines():
        own, _, name = line.removeprefix("import time:").split("|") if line.count("|") == 2 else ("", "", "")
        if own.strip().isdigit():
            package = name.strip().partition(".")[0]
            spent[package] = spent.get(package, 0.0) + int(own) / 1e6
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    turns = parser.parse_args().turns
    measures = []
    for name, arguments in COMMANDS.items():
        seconds(arguments)  # the first reads from the disk
        taken = [seconds(arguments) for _ in range(turns)]
        spent = imports(arguments)
        slowest = sorted(spent, key=lambda package: -spent[package])[:6]
        print(
            f"{name:8}{median(taken):8.2f} s, of which imports {sum(spent.values()):.2f} s: "
            + ", ".join(f"{package} {spent[package]:.2f}" for package in slowest),
            flush=True,
        )
        measures.append(Measure(f"startup: seconds of {name}", median(taken), "<=", GOAL_S))
    end(measures)


if __name__ == "__main__":
    main()
