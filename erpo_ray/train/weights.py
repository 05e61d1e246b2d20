"""Model directories on disk: their version, and the files that stay the same when weights change.

Pure: nothing here loads torch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from erpo_ray.errors import UsageError

_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".msgpack", ".h5"}


def version(policy_dir: Path) -> str:
    """The first 16 hex digits of a sha256 over the directory's safetensors files, in name order.

    Raises UsageError when there are none: other weight formats can run code when they are read.
    """
    files = sorted(policy_dir.glob("*.safetensors"))
    if not files:
        raise UsageError(f"{policy_dir}: no *.safetensors file; convert the model with `save_pretrained` first")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def dress(out: Path, source: Path, dtype: str) -> None:
    """Give the bare weights in `out` the tokenizer, chat template and generation settings of `source`, unchanged.

    config.json is the source's too, with `dtype` in it: what training sets on a config in memory (a pad id, no cache)
    is no property of the model. A model card is left behind: it would speak of other weights.
    """
    for file in source.iterdir():
        weights = file.suffix in _WEIGHTS or file.name.endswith(".index.json")
        if file.is_file() and not weights and file.name != "README.md":
            shutil.copyfile(file, out / file.name)
    config = json.loads((source / "config.json").read_text())
    config.pop("torch_dtype", None)
    (out / "config.json").write_text(json.dumps(config | {"dtype": dtype}, indent=2, sort_keys=True) + "\n")
