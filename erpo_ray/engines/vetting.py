"""What a model directory must be before anything of it is loaded: weights in safetensors, and no code.

An allow-list, not a scanner. It reads the JSON files and the first bytes of the weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from erpo_ray.errors import UsageError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_HEADER = 100_000_000
"""Bytes of a safetensors header; the library takes no more."""
MAX_JSON = 1 << 26
"""Bytes of a JSON file: the index of a model of a thousand layers has a few million."""

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def check(model_dir: Path, key: str) -> None:
    """Raise UsageError unless the directory holds safetensors weights and nothing that would have to be run.

    Pickled files beside the weights are never read. `key` is the one of the configuration that names the model.
    """
    if not (model_dir / "config.json").exists():
        raise UsageError(f"{model_dir}: no config.json; {key} must be a Hugging Face model directory")
    for shard in _shards(model_dir):
        _check_header(shard)
    if (model_dir / "adapter_config.json").exists():
        raise UsageError(f"{model_dir}: adapter_config.json makes it an adapter over another model; merge it first")
    if (model_dir / "custom_generate").exists():
        raise UsageError(
            f"{model_dir}: custom_generate is code of the model's own, which erpo_ray never runs; remove that folder"
        )
    for path in sorted({model_dir / "config.json", *model_dir.glob("*_config.json")}):
        if "auto_map" in _keys(read_json(path)):
            raise UsageError(
                f"{path}: auto_map makes the model run code of its own, which erpo_ray never does; "
                "use a model whose architecture transformers knows"
            )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a model's JSON file. UsageError when it is none."""
    size = path.stat().st_size
    if size > MAX_JSON:
        raise UsageError(f"{path}: found {size} bytes of JSON, more than {MAX_JSON}; download the model again")
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid JSON ({error}); download the model again") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path}: found a {type(found).__name__}, not an object; download the model again")
    return found


def _shards(model_dir: Path) -> list[Path]:
    """The files of the weights. UsageError when there are none, or the index leads elsewhere."""
    index = model_dir / INDEX
    if not index.exists():
        if (model_dir / WEIGHTS).exists():
            return [model_dir / WEIGHTS]
        pickled = sorted(path.name for pattern in _PICKLES for path in model_dir.glob(pattern))
        found = f"only pickled weights ({', '.join(pickled)}), which can run code" if pickled else f"no {WEIGHTS}"
        raise UsageError(f"{model_dir}: {found}; convert the model to safetensors")
    named = read_json(index).get("weight_map")
    names = sorted({*map(str, named.values())}) if isinstance(named, dict) else []
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors") or not (model_dir / name).exists():
            raise UsageError(
                f"{index}: names {name!r}, which is no safetensors file beside it; download the model again"
            )
    if not names:
        raise UsageError(f"{index}: names no weights; download the model again")
    return [model_dir / name for name in names]


def _check_header(shard: Path) -> None:
    size = shard.stat().st_size
    with shard.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    if size < 8 or length > min(MAX_HEADER, size - 8):
        raise UsageError(f"{shard}: not a whole safetensors file; download the model again")


def _keys(value: object) -> Iterator[str]:
    """All keys of a JSON value, nested ones too: models within models have configurations of their own."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    yield from value if isinstance(value, dict) else ()
    for each in inner:
        yield from _keys(each)
