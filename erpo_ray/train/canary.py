"""The trainer's side of the canary: what the weights on disk say of a fixed sequence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from erpo_ray.train import models
from erpo_ray.train.forward import sequence_token_logps
from erpo_ray.train.rows import Sequences


def logprobs(
    policy_dir: Path, prompt_ids: Sequence[int], completion_ids: Sequence[int], bf16: bool = False
) -> list[float]:
    """Log-probability, in nats, of each completion token after the prompt.

    Loads the policy, scores on the CPU and lets it go. `bf16` computes in the type an engine serves; float32 otherwise.
    """
    model = models.load(policy_dir, torch.bfloat16 if bf16 else torch.float32)
    row = Sequences("canary", tuple(prompt_ids), (tuple(completion_ids),))
    ((found,),) = sequence_token_logps(model, [row], batch_size=1, bf16=False)
    return list(found)
