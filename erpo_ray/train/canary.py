"""The trainer's side of the canary: what the weights on disk say of fixed sequences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from erpo_ray.train import models
from erpo_ray.train.forward import sequence_logps
from erpo_ray.train.rows import Sequences


def logprobs(
    policy_dir: Path,
    prompts_ids: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    bf16: bool = False,
) -> list[float]:
    """Mean log-probability a token, in nats, of each completion after its prompt.

    Loads the policy, scores on the CPU and lets it go. `bf16` computes in the type an engine serves; float32 otherwise.
    """
    rows = [
        Sequences(str(at), tuple(prompt), (tuple(completion),))
        for at, (prompt, completion) in enumerate(zip(prompts_ids, completion_ids, strict=True))
    ]
    model = models.load(policy_dir, torch.bfloat16 if bf16 else torch.float32)
    sums = sequence_logps(model, rows, batch_size=len(rows), bf16=False)
    return [total / len(row.completions[0]) for row, (total,) in zip(rows, sums, strict=True)]
