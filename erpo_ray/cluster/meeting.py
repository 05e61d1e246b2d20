"""How the ranks of one machine find each other: in a file, where torch's own store would listen on every address."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend

_NAME = "ranks-"


@dataclass
class Meeting(TorchConfig):
    """`folder` is seen by all ranks; they run on one machine."""

    folder: str = ""

    @property
    def backend_cls(self) -> type[_Meeting]:
        return _Meeting


class _Meeting(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """As Ray Train does it, but for the address. A group that starts again meets in a file of its own."""
        ranks = len(worker_group)
        worker_group.execute(_set_torch_distributed_env_vars)
        place = Path(backend_config.folder) / f"{_NAME}{uuid.uuid4().hex}"
        ray.get(
            [
                worker_group.execute_single_async(
                    rank,
                    _setup_torch_process_group,
                    backend=backend_config.backend,
                    world_rank=rank,
                    world_size=ranks,
                    init_method=place.as_uri(),
                    timeout_s=backend_config.timeout_s,
                )
                for rank in range(ranks)
            ]
        )
