"""What the tests with real engines share: the embedded model, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from erpo_ray.engines.models import EMBEDDED, materialise


@pytest.fixture(scope="session")
def smol() -> Path:
    """Directory of SmolLM2-135M-Instruct."""
    return materialise(EMBEDDED)
