"""Tasks of lm-eval on a model: the harness stays a program of its own and asks a server of ours."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from erpo_ray.commands import serve
from erpo_ray.config import Config
from erpo_ray.errors import RunFailed, UsageError

PREFIX = "lm-eval:"
_SERVED = "erpo"
_TIMEOUT_S = 3600
"""Of one reply: on CPU a full batch of long ones takes longer than the harness waits by default."""


def split(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our suites and lm-eval's tasks in the values of --suite: `harmful,lm-eval:ifeval,gsm8k` names two tasks."""
    words: list[str] = []
    tasks: list[str] = []
    for name in names:
        mine, mark, theirs = name.partition(PREFIX)
        words += [word for word in mine.split(",") if word]
        found = [task for task in theirs.split(",") if task]
        if mark and not found:
            raise UsageError(f"--suite: found {name!r} without a task; write for instance {PREFIX}ifeval")
        tasks += found
    return words, tasks


def program() -> str:
    """Path of lm-eval, beside this Python or on PATH. UsageError when it is not installed."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which("lm-eval", path=places)
    if found is None:
        raise UsageError(f"--suite {PREFIX}...: needs the program lm-eval; pip install 'lm-eval[api]'")
    return found


def evaluate(lm_eval: str, model: Path, tasks: Sequence[str], config: Config, out: Path, quiet: bool) -> None:
    """Serve the model, let lm-eval ask it, stop the server. Results and samples are lm-eval's own, below `out`.

    Its table goes to stdout, or to stderr when `quiet`. RunFailed when it does not end well.
    """
    # Of this server alone, and in place of the user's own, which lm-eval would send.
    key = secrets.token_urlsafe(32)
    with serve.running(model, config, _SERVED, key) as address:
        ordered = command(lm_eval, address, _SERVED, tasks, config, out)
        environment = {**os.environ, "OPENAI_API_KEY": key}
        code = subprocess.run(ordered, env=environment, stdout=2 if quiet else None).returncode
    if code:
        raise RunFailed(f"lm-eval ended with exit code {code}; what it said is above")


def command(lm_eval: str, address: str, name: str, tasks: Sequence[str], config: Config, out: Path) -> list[str]:
    """The command line of lm-eval, which asks the server at `address` for the model of this name."""
    arguments = {
        "base_url": f"{address}/chat/completions",
        "model": name,
        "num_concurrent": config.cluster.in_flight,
        "timeout": _TIMEOUT_S,
    }
    limit = config.evaluate.per_source
    return [
        lm_eval,
        "run",
        "--model=local-chat-completions",
        f"--model_args={','.join(f'{key}={value}' for key, value in arguments.items())}",
        f"--tasks={','.join(tasks)}",
        "--apply_chat_template",
        "--log_samples",
        f"--output_path={out}",
        *([] if limit is None else [f"--limit={limit}"]),
    ]
