"""Environment variables of every process of the project: no telemetry, no Ray unasked, one engine process on CPU."""

from __future__ import annotations

import ipaddress
import os
from functools import cache
from pathlib import Path

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Usage reports of Ray, vLLM, the hub and trackers off; no threads of tokenizers that a fork would break."""

CONNECTED = {"RAY_ENABLE_AUTO_CONNECT": "0"}
"""Only who means to connects to Ray: a thread that outlived the connection would start a cluster of its own."""

ON_CPU = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
"""The engine in the caller's own process: 930 tokens a second against 580 on two cores, and one process to place."""

LOOPBACK = "127.0.0.1"
ON_LOOPBACK = {"VLLM_HOST_IP": LOOPBACK, "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""Of processes that speak to none on other machines: else vLLM, gloo and NCCL listen where others reach them."""

_CPU_INFO = Path("/proc/cpuinfo")
_FLAG_LISTS = ("flags", "Features")
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Names there, of x86 and of ARM."""


def loopback(host: str) -> bool:
    """Whether the name or address leads to this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def apply() -> None:
    """Set what is not set already. Call it before ray, vllm or transformers are imported."""
    for name, value in {**QUIET, **CONNECTED, **({} if gpu_present() else ON_CPU)}.items():
        os.environ.setdefault(name, value)


def bf16(gpu: bool) -> bool:
    """Whether to compute in bfloat16: on a GPU, and on a CPU that multiplies it by itself; elsewhere in float32.

    Without such instructions (x86 before AVX-512 BF16, most laptops) a product of matrices takes a hundred times as
    long in bfloat16 as in float32.
    """
    return gpu or not _BF16_FLAGS.isdisjoint(_cpu_flags())


@cache
def _cpu_flags() -> frozenset[str]:
    """What the first processor is said to have; nothing where the system has no such list."""
    lines = _CPU_INFO.read_text().splitlines() if _CPU_INFO.exists() else []
    named = (line.partition(":") for line in lines)
    return next((frozenset(flags.split()) for name, _, flags in named if name.strip() in _FLAG_LISTS), frozenset())


def gpu_present() -> bool:
    """True when an NVIDIA device is there and not hidden by CUDA_VISIBLE_DEVICES; found without loading torch."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    return not hidden and any(Path("/dev").glob("nvidia[0-9]*"))
