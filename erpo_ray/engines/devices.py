"""The devices that torch finds on this machine."""

from __future__ import annotations


def cuda_names() -> list[str]:
    """Names of the CUDA devices, none on a CPU machine."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
