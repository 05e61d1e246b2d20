"""`erpo eval`: a model on files of labelled prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from erpo_ray import preflight, rules
from erpo_ray.commands.common import model_of, read_config, run_config, run_of
from erpo_ray.config import Config, Source
from erpo_ray.endings import terminable
from erpo_ray.errors import UsageError
from erpo_ray.prompts import loaders
from erpo_ray.terminal import clean
from erpo_ray.types import encode


def evaluate(model: str, files: Sequence[Path], config_path: Path | None, output: Path | None) -> int:
    """Print one table, and write the evaluations to `output` when it is given.

    Without `config_path` a run is judged by its own configuration, any other model by the defaults.
    """
    run = run_of(model)
    if config_path is not None:
        config = read_config(config_path, [])
    else:
        config = run_config(run) if run else Config()
    _require_output(output)
    book = rules.load(config.rules.path)
    for file in files:
        prompts = loaders.read(Source.model_validate({"path": str(file)}), "", tuple(book.categories))
        if all(prompt.label == "unknown" for prompt in prompts):
            raise UsageError(f"{file}: found no labels; give each row a `label` of harmful or benign")
    found = model_of(model)
    config = config.model_copy(update={"model": config.model.model_copy(update={"path": str(found)})})
    preflight.model(config)
    with terminable():
        from erpo_ray import launch
        from erpo_ray.evaluate.metrics import table

        evaluations = launch.evaluate(found, list(files), config)
    print(clean(table(evaluations)))
    if output is not None:
        output.write_bytes(encode(evaluations) + b"\n")
        print(f"written to {output}")
    return 0


def _require_output(output: Path | None) -> None:
    if output is not None and not output.absolute().parent.is_dir():
        raise UsageError(f"{output}: no folder {output.parent}; create it first")
