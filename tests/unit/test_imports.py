"""Rooms keep to themselves: the pure ones load nothing heavy, imports point one way (contracts in pyproject.toml)."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
import time
from pathlib import Path

import erpo_ray

ROOT = Path(__file__).parents[2]
HEAVY = "ray torch vllm transformers trl peft datasets sentence_transformers openai pyarrow".split()
SHELLS = ("cluster", "engines", "train", "local", "__main__")
"""And `inspect_tasks`, which only an environment with Inspect can import."""


def test_pure_rooms_and_the_command_line_load_nothing_heavy() -> None:
    names = [
        module.name
        for module in pkgutil.walk_packages(erpo_ray.__path__, "erpo_ray.")
        if module.name.split(".")[1] not in (*SHELLS, "inspect_tasks")
    ]
    assert {"erpo_ray.types", "erpo_ray.loop", "erpo_ray.cli", "erpo_ray.methods.erpo"} <= set(names)
    script = (
        "import importlib, json, sys\n"
        "loaded = {}\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        f"    for heavy in {HEAVY!r}:\n"
        "        if heavy in sys.modules: loaded.setdefault(heavy, name)\n"
        "print(json.dumps(loaded))\n"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == {}, "heavy package -> the module whose import loaded it"


def test_imports_keep_the_contracts_of_pyproject() -> None:
    linted = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert linted.returncode == 0, linted.stdout
    assert "0 broken" in linted.stdout


def test_help_is_there_at_once() -> None:
    def help_seconds() -> float:
        start = time.perf_counter()
        shown = subprocess.run([sys.executable, "-m", "erpo_ray", "--help"], cwd=ROOT, capture_output=True, text=True)
        assert shown.returncode == 0 and "erpo" in shown.stdout
        return time.perf_counter() - start

    # The best of three: other tests share the machine.
    assert min(help_seconds() for _ in range(3)) < 1
