"""What each of two worker processes runs: Ray Train sets up the same variables and process group."""

from __future__ import annotations

import os
from pathlib import Path

import torch.distributed

from erpo_ray.train.dpo import prefer
from erpo_ray.train.sft import imitate
from erpo_ray.types import Objective, Training


def work(rank: int, world: int, port: int, policy: Path, rows: tuple, training: Training, out: Path, results) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    steps: list[dict[str, float]] = []
    examples, pairs = rows
    imitated = imitate(policy, examples, training, out / "imitate")
    preferred = prefer(
        policy,
        policy,
        pairs,
        Objective(beta=0.1, nll=0.1),
        training,
        out / "prefer",
        out / "work",
        lambda *step: steps.append(step[2]),
        out / "kept",
    )
    results.put((rank, imitated, preferred, steps))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
