"""Memory of GPUs that others use: what nvidia-smi tells, which GPUs count, and the sentence before anything boots."""

from __future__ import annotations

import pytest

from erpo_ray import preflight
from erpo_ray.config import Cluster
from erpo_ray.engines import devices
from erpo_ray.engines.devices import Gpu, crowded, visible
from erpo_ray.errors import EnvironmentFault

TOLD = """0, GPU-aa11, 4, 81559
1, GPU-bb22, 61440, 81559
2, GPU-cc33, [N/A], [N/A]
"""


@pytest.mark.parametrize(
    ("chosen", "indexes"),
    [(None, ["0", "1"]), ("1", ["1"]), ("GPU-aa", ["0"]), ("0,1", ["0", "1"]), ("", []), ("-1", [])],
)
def test_those_count_that_are_visible(chosen: str | None, indexes: list[str]) -> None:
    found = visible(TOLD, chosen)
    assert [gpu.index for gpu in found] == indexes
    assert all(gpu.total == pytest.approx(79.65, abs=0.01) for gpu in found)


@pytest.mark.parametrize(("used", "told"), [(12.0, ""), (12.1, "GPU 1 (12.1 of 80.0 GiB in use)")])
def test_a_gpu_is_crowded_when_the_share_is_not_free(used: float, told: str) -> None:
    assert crowded([Gpu("0", "a", 0.0, 80.0), Gpu("1", "b", used, 80.0)], 0.85) == told


def test_a_crowded_gpu_of_this_machine_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(devices, "gpu_used", lambda: visible(TOLD, None))
    with pytest.raises(
        EnvironmentFault, match=r"GPU 1 \(60.0 of 79.6 GiB in use\): an engine takes 85% .*CUDA_VISIBLE"
    ):
        preflight.gpus(Cluster())
    preflight.gpus(Cluster(gpu_memory_utilization=0.2))
    preflight.gpus(Cluster(gpu=False))
    preflight.gpus(Cluster(address="10.0.0.1:6379"))


def test_without_nvidia_smi_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    assert devices.gpu_used() == []
