"""`erpo export`: what a run made, for other tools. By default its policy, with a card that says how it was made."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

from erpo_ray import disk
from erpo_ray.commands import export_inspect, export_trl
from erpo_ray.commands.common import MEASURES, measures, metrics, policy_of, require_run, run_config
from erpo_ray.config import Config
from erpo_ray.errors import UsageError
from erpo_ray.prompts import seeds

Format = Literal["hf", "trl", "inspect"]
AFTER = {
    "hf": "model and card: {folder}\nnext: erpo serve {folder}",
    "trl": "pairs: {folder}\nnext: trl dpo --dataset_name {folder}, or datasets.load_dataset('{folder}')",
    "inspect": "Inspect logs: {folder}\nnext: inspect view --log-dir {folder}",
}
"""What is said of each format when it is there."""

LICENCES = {"smollm2-135m-instruct": "apache-2.0"}
HUB_NAMES = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}


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
    (folder / "README.md").write_text(card(config, metrics(run)), "utf-8")
    _set_sampling(folder / "generation_config.json", config)


def card(config: Config, rows: list[dict[str, Any]]) -> str:
    """The model card: front matter for the hub, what was done, what was measured."""
    from huggingface_hub import ModelCardData

    base = config.model.path
    sources = [source.path for source in config.data.train]
    data = ModelCardData(
        base_model=HUB_NAMES.get(base, base),
        license=LICENCES.get(base),
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["erpo", "safety", "reasoning", "dpo", "trl"],
        datasets=[path for path in sources if _on_hub(path)] or None,
        base_model_relation="finetune",
    )
    licence = "" if base in LICENCES else "\nThe licence is that of the base model.\n"
    return (
        f"---\n{data.to_yaml()}\n---\n\n# {config.name}\n\n"
        f"{HUB_NAMES.get(base, base)} aligned with the method `{config.method}` of erpo_ray: it reasons about safety "
        "inside `<think>...</think>` before it answers.\n\n"
        f"Trained on: {', '.join(sources)}. Seed {config.seed}.\n{licence}\n"
        f"## Evaluation\n\n{_table(rows)}\n\n"
        "Greedy decoding on prompts held apart from training. Utility is in [-1, 1], lengths are in tokens and count "
        "trace and answer. A low refusal rate on benign prompts and a high one on harmful prompts are both wanted.\n\n"
        "## Limits\n\nThe figures hold for the prompts measured. Other attacks, languages and longer talks were not "
        "tested; do not use the model as the only safeguard.\n"
    )


def _on_hub(path: str) -> bool:
    return path not in seeds.NAMES and path.count("/") == 1 and not path.endswith((".jsonl", ".gz", ".parquet"))


def _table(rows: list[dict[str, Any]]) -> str:
    cells = measures(rows)
    if not cells:
        return "No evaluation was recorded."
    head = ("stage", *(name.replace("_", " ") for name in MEASURES))
    lines = [head, ("---",) * len(head), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _set_sampling(path: Path, config: Config) -> None:
    """The sampling of the evaluation, because vLLM and transformers take this file as their default."""
    settings: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
        settings.pop(name, None)
    settings |= {"do_sample": False, "max_new_tokens": config.evaluate.max_tokens}
    path.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
