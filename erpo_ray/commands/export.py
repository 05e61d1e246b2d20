"""`erpo export`: what a run made, for other tools. By default its policy, with a card that says how it was made."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

from erpo_ray import disk
from erpo_ray.commands import export_inspect, export_trl
from erpo_ray.commands.card import card
from erpo_ray.commands.common import policy_of, require_run, run_config
from erpo_ray.config import Config
from erpo_ray.errors import UsageError

Format = Literal["hf", "trl", "inspect"]
AFTER = {
    "hf": "model and card: {folder}\nnext: erpo serve {folder}",
    "trl": "pairs: {folder}\nnext: trl dpo --dataset_name {folder}, or datasets.load_dataset('{folder}')",
    "inspect": "Inspect logs: {folder}\nnext: inspect view --log-dir {folder}",
}
"""What is said of each format when it is there."""


def export(run: Path, folder: Path, to: Format) -> int:
    """Write what is asked for; the directory appears whole or not at all."""
    if folder.exists():
        raise UsageError(f"{folder}: exists already; name a new folder, nothing is overwritten")
    if not folder.absolute().parent.is_dir():
        raise UsageError(f"{folder}: no folder {folder.parent}; create it first")
    require_run(run)
    if to == "inspect":
        export_inspect.require()
    with (
        disk.writing(folder, "name another folder"),
        tempfile.TemporaryDirectory(dir=folder.absolute().parent, prefix=".export-") as scratch,
    ):
        made = Path(scratch) / "made"
        made.mkdir()
        {"hf": _model, "trl": export_trl.write, "inspect": export_inspect.write}[to](run, made)
        made.rename(folder)
    print(AFTER[to].format(folder=folder))
    return 0


def _model(run: Path, folder: Path) -> None:
    """Model, card and sampling settings."""
    policy, config = policy_of(run), run_config(run)
    shutil.copytree(policy, folder, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)
    (folder / "README.md").write_text(card(run, config, policy), "utf-8")
    _set_sampling(folder / "generation_config.json", config)


def _set_sampling(path: Path, config: Config) -> None:
    """The sampling of the evaluation, because vLLM and transformers take this file as their default."""
    settings: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
        settings.pop(name, None)
    settings |= {"do_sample": False, "max_new_tokens": config.evaluate.max_tokens}
    path.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
