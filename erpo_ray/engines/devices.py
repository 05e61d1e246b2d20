"""The GPUs of this machine: their names, and what of their memory others use already."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

_ASKED = "index,uuid,memory.used,memory.total"
_PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU: its number and name as `CUDA_VISIBLE_DEVICES` may have them, memory in GiB."""

    index: str
    uuid: str
    used: float
    total: float


def cuda_names() -> list[str]:
    """Names of the CUDA devices, none on a CPU machine."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def gpu_used() -> list[Gpu]:
    """Memory of the GPUs that this process may use, as nvidia-smi tells it; none where it does not answer.

    CUDA, asked the same, would take memory on each of them for as long as the driver lives.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    words = [program, f"--query-gpu={_ASKED}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(words, capture_output=True, text=True, timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired:
        return []
    return visible(told.stdout, os.environ.get("CUDA_VISIBLE_DEVICES")) if told.returncode == 0 else []


def visible(told: str, chosen: str | None) -> list[Gpu]:
    """The GPUs in nvidia-smi's lines (index, uuid, MiB used, MiB in all) that the variable leaves visible.

    A line that tells no memory, as of one that is divided, is left out.
    """
    rows = [[cell.strip() for cell in line.split(",")] for line in told.splitlines()]
    rows = [row for row in rows if len(row) == 4 and row[2].isdigit() and row[3].isdigit()]
    found = [Gpu(index, uuid, int(used) / 1024, int(total) / 1024) for index, uuid, used, total in rows]
    if chosen is None:
        return found
    words = [word.strip() for word in chosen.split(",") if word.strip()]
    return [gpu for gpu in found if any(word == gpu.index or gpu.uuid.startswith(word) for word in words)]


def crowded(gpus: Sequence[Gpu], share: float) -> str:
    """Which of the GPUs have less than this share of their memory free, in words; empty when all have it."""
    tight = [gpu for gpu in gpus if gpu.total - gpu.used < share * gpu.total]
    return ", ".join(f"GPU {gpu.index} ({gpu.used:.1f} of {gpu.total:.1f} GiB in use)" for gpu in tight)
