"""Every bench that has goals, one after the other, then all their measures in one table.

python bench/all.py

`stage.py` and `round.py` start from the demo's policy after its imitate stage, which is trained once for both. Exits
with 1 when a bench fails or a measure misses its goal by more than a tenth.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from processes import alone
from rounds import demo, play

from erpo_ray import environment

ROOT = Path(__file__).parents[1]
MODEL = "smollm2-135m-instruct"
SEEDS = "erpo_ray/prompts/seeds"
PROMPTS = 16
"""Of a round, a quarter of the demo's: five turns of `round.py` are an hour on two cores then, and hours otherwise."""
BENCHES = (
    "driver.py",
    "overlap.py",
    f"startup.py {MODEL}",
    f"train.py {MODEL}",
    f"rollout.py {MODEL}",
    f"evaluate.py {MODEL} {SEEDS}/violence.jsonl {SEEDS}/everyday.jsonl --limit 150 --rounds 5",
    f"stage.py {{policy}} --prompts {PROMPTS}",
    f"round.py {MODEL} --policy {{policy}} --prompts {PROMPTS}",
)


def run(command: str) -> tuple[bool, list[str]]:
    """Show what the bench prints as it comes; whether it is content, and its measures."""
    print(f"\n== {command}", flush=True)
    lines = []
    script, *arguments = command.split()
    call = [sys.executable, f"bench/{script}", *arguments]
    with subprocess.Popen(call, cwd=ROOT, stdout=subprocess.PIPE, text=True) as bench:
        assert bench.stdout is not None
        for line in bench.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return bench.returncode == 0, [line for line in lines if line.split()[-1:] in (["pass"], ["short"])]


def imitated(folder: Path) -> Path:
    """The policy to start a round from."""
    from erpo_ray.engines.models import materialise

    return alone(play, demo(materialise(MODEL)), "imitate", folder) / "policy"


def main() -> int:
    environment.apply()
    with tempfile.TemporaryDirectory() as folder:
        policy = imitated(Path(folder) / "start")
        found = {command.split()[0]: run(command.format(policy=policy)) for command in BENCHES}
    print("\n== all measures")
    for _, measures in found.values():
        print("".join(measures), end="")
    failed = [name for name, (content, _) in found.items() if not content]
    print(f"\nfailed, or short by more than a tenth: {', '.join(failed) or 'none'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
