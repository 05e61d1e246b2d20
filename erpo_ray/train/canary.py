"""The trainer's side of the canary: what the weights on disk say of a fixed sequence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from erpo_ray import environment
from erpo_ray.train import models
from erpo_ray.train.forward import sequence_token_logps
from erpo_ray.train.rows import Sequences
from erpo_ray.train.weights import Proof, leave, version


def logprobs(
    policy_dir: Path, prompt_ids: Sequence[int], completion_ids: Sequence[int], bf16: bool = False, device: Any = "cpu"
) -> list[float]:
    """Log-probability, in nats, of each completion token after the prompt.

    Loads the policy and lets it go. `bf16` computes in the type an engine serves; float32 otherwise.
    """
    model = models.load(policy_dir, torch.bfloat16 if bf16 else torch.float32, device)
    row = Sequences("canary", tuple(prompt_ids), (tuple(completion_ids),))
    ((found,),) = sequence_token_logps(model, [row], batch_size=1, bf16=False)
    return list(found)


def sign(policy_dir: Path, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> None:
    """Leave a proof in a directory just written. A trainer has cores or a GPU for it, and nobody waits for it yet."""
    gpu = torch.cuda.is_available()
    found = logprobs(policy_dir, prompt_ids, completion_ids, environment.bf16(gpu), "cuda" if gpu else "cpu")
    leave(Proof(version(policy_dir), tuple(prompt_ids), tuple(completion_ids), tuple(found)), policy_dir)
