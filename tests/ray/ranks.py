"""What each of two worker processes runs: Ray Train sets up the same variables and process group."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import tiny
import torch.distributed
from accelerate import Accelerator, DistributedType, PartialState

from erpo_ray import stopping
from erpo_ray.errors import Interrupted, UsageError
from erpo_ray.objectives import Objective, Surrogate, Training
from erpo_ray.train.dpo import prefer
from erpo_ray.train.reinforce import reinforce
from erpo_ray.train.sft import imitate


def work(rank: int, world: int, port: int, policy: Path, rows: tuple, training: Training, out: Path, results) -> None:
    join(rank, world, port)
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
    leave()


def preferring(
    rank: int, world: int, port: int, policy: Path, rows: list, training: Training, out: Path, results
) -> None:
    join(rank, world, port)
    steps: list[int] = []
    where = out / "policy", out / "work", lambda step, *_: steps.append(step)
    prefer(policy, policy, rows, Objective(beta=0.1, nll=0.1), training, *where)
    results.put((rank, steps))
    leave()


def gradient(
    rank: int,
    world: int,
    port: int,
    policy: Path,
    rows: list,
    objective: Surrogate,
    training: Training,
    out: Path,
    results,
) -> None:
    join(rank, world, port)
    results.put((rank, reinforce(policy, policy, rows, objective, training, out / "policy", kept=out / "kept")))
    leave()


def shard(rank: int, world: int, port: int, policy: Path, rows: tuple, training: Training, out: Path, results) -> None:
    """Each training as DDP does it and sharded, and what is told of a sharded one without GPUs."""
    join(rank, world, port)
    examples, pairs = rows
    objective = Objective(beta=0.1, nll=0.1)
    lora = replace(training, lora_rank=4, lora_alpha=8, lora_targets=("q_proj", "up_proj"))
    held: list[tuple[int, int]] = []
    refused = ""
    try:
        imitate(policy, examples, replace(training, shard=True), out / "refused")
    except UsageError as error:
        refused = str(error)
    for name, sharded in (("ddp", False), ("fsdp", True)):
        if sharded:
            take_for_gpus(held)
        full, adapter = replace(training, shard=sharded), replace(lora, shard=sharded)
        imitate(policy, examples, full, out / name / "imitate", out / name / "work")
        prefer(policy, policy, pairs, objective, full, out / name / "prefer")
        prefer(policy, policy, pairs, objective, replace(adapter, gradient_checkpointing=True), out / name / "lora")
    steps: list[int] = []
    again = replace(training, shard=True)
    imitate(policy, examples, again, out / "again", out / "fsdp/work", lambda step, *_: steps.append(step))
    # What it leaves in the environment shards no later training.
    imitate(policy, examples, training, out / "after")
    results.put((rank, held, steps, refused))
    leave()


def take_for_gpus(held: list[tuple[int, int]]) -> None:
    """accelerate shards on GPUs only: it takes these ranks for such, on the device `cpu`. `held` gets (local, all)."""
    os.environ |= {"ACCELERATE_TORCH_DEVICE": "cpu", "ACCELERATE_BYPASS_DEVICE_MAP": "true"}
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    prepare = Accelerator._prepare_fsdp2

    def prepared(self: Accelerator, *parts: Any) -> Any:
        found = prepare(self, *parts)
        weights = [weight for part in found if isinstance(part, torch.nn.Module) for weight in part.parameters()]
        if weights:
            held.append((sum(w.to_local().numel() for w in weights), sum(w.numel() for w in weights)))
        return found

    Accelerator._prepare_fsdp2 = prepared


def join(rank: int, world: int, port: int) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)


def leave() -> None:
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def stopping_each(
    rank: int, world: int, port: int, policy: Path, training: Training, step: int, out: Path, results
) -> None:
    """Each training whole, then asked to stop while it is in this step, then once more: of both what was told of."""
    join(rank, world, port)
    seen: dict[str, list[int]] = {}
    for stage, train in trainings(policy, training).items():
        train(out / "whole" / stage, out / "undisturbed" / stage, None)
        work, told = out / "work" / stage, seen.setdefault(stage, [])

        def ask(at: int, *_: Any, work: Path = work, told: list[int] = told) -> None:
            told.append(at)
            if at == step - 1:
                stopping.leave(work)

        with suppress(Interrupted):
            train(out / "gone on" / stage, work, ask)
        assert not (out / "gone on" / stage).exists()
        stopping.clear(work)
        torch.distributed.barrier()
        train(out / "gone on" / stage, work, lambda at, *_, told=told: told.append(-at))
    results.put((rank, seen))
    leave()


def training_each(
    rank: int, world: int, port: int, policy: Path, training: Training, rows: int, out: Path, results
) -> None:
    """Each training on so many rows; of each the loss of the last step."""
    join(rank, world, port)
    losses = {stage: train(out / stage)["loss_last"] for stage, train in trainings(policy, training, rows).items()}
    results.put((rank, losses))
    leave()


def trainings(policy: Path, training: Training, rows: int = 24) -> dict[str, Any]:
    """By the name of its stage what trains into one folder, with another to work in."""
    surrogate = Surrogate(clip=0.2, kl=0.1)
    return {
        "imitate": partial(imitate, policy, tiny.examples(rows), training),
        "prefer": partial(prefer, policy, policy, tiny.pairs(rows), Objective(beta=0.1, nll=0.1), training),
        "reinforce": partial(reinforce, policy, policy, tiny.advantages(rows), surrogate, training),
    }
