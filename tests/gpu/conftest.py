"""What needs a CUDA device. Without one it is collected, and skipped."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from erpo_ray.engines.models import EMBEDDED, materialise

HERE = Path(__file__).parent
# The models and rows made on the spot.
sys.path.append(str(HERE.parent / "ray"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    absent = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            item.add_marker(absent)


@pytest.fixture(scope="session")
def smol() -> Path:
    """Directory of SmolLM2-135M-Instruct."""
    return materialise(EMBEDDED)
