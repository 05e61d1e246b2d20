"""Model directories on disk: their version, and the files that stay the same when weights change.

Pure: nothing here loads torch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from erpo_ray.errors import UsageError
from erpo_ray.types import UNREADABLE, Policy, decode, encode

PROOF = "canary.json"
"""Beside the weights: the `Proof` of whoever trained them."""

READERS = 8
"""Files hashed at once."""
_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".msgpack", ".h5"}


def version(policy_dir: Path) -> str:
    """The first 16 hex digits of a sha256 over the directory's safetensors files, in name order.

    Raises UsageError when there are none: other weight formats can run code when they are read.
    """
    files = sorted(policy_dir.glob("*.safetensors"))
    if not files:
        raise UsageError(f"{policy_dir}: no *.safetensors file; convert the model with `save_pretrained` first")
    digest = hashlib.sha256()
    with ThreadPoolExecutor(READERS) as pool:
        for each in pool.map(sha256, files):
            digest.update(each)
    return digest.hexdigest()[:16]


def sha256(file: Path) -> bytes:
    """Of the file, not held in memory."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


@dataclass(frozen=True, slots=True)
class Proof:
    """Log-probability, in nats, of each completion token after the prompt, as the trainer computes it from the weights
    of this version."""

    version: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


def leave(proof: Proof, policy_dir: Path) -> None:
    """Write the proof beside the weights."""
    (policy_dir / PROOF).write_bytes(encode(proof))


def proof_of(policy: Policy, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> Proof | None:
    """The proof that the policy's trainer left of these tokens; None where it left none, or of other weights or tokens,
    which is how a directory looks that was copied and changed."""
    path = policy.path / PROOF
    if not path.exists():
        return None
    try:
        found = decode(path.read_bytes(), Proof)
    except UNREADABLE as error:
        raise UsageError(f"{path}: no proof of weights ({error}); delete the file, and it is computed anew") from error
    asked = policy.version, tuple(prompt_ids), tuple(completion_ids)
    whole = len(found.logprobs) == len(found.completion_ids)
    return found if whole and (found.version, found.prompt_ids, found.completion_ids) == asked else None


def dress(out: Path, source: Path, dtype: str) -> None:
    """Give the bare weights in `out` the tokenizer, chat template and generation settings of `source`, unchanged.

    config.json is the source's too, with `dtype` in it: what training sets on a config in memory (a pad id, no cache)
    is no property of the model. A model card and a proof are left behind: they would speak of other weights.
    """
    for file in source.iterdir():
        weights = file.suffix in _WEIGHTS or file.name.endswith(".index.json")
        if file.is_file() and not weights and file.name not in ("README.md", PROOF):
            shutil.copyfile(file, out / file.name)
    config = json.loads((source / "config.json").read_text())
    config.pop("torch_dtype", None)
    (out / "config.json").write_text(json.dumps(config | {"dtype": dtype}, indent=2, sort_keys=True) + "\n")
