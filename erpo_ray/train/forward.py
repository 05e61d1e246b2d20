"""One forward pass over padded rows that gives log-probabilities of completions and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from erpo_ray.train.losses import target_logps
from erpo_ray.train.rows import Sequences

Batch = dict[str, Tensor]

SHORT = 256
"""Up to this many tokens plain attention beats the fused one on a CPU, whose bf16 backward pass is slow there."""
WORTH_SHARING = 8
"""Fewest tokens of a common beginning for which a pass of its own pays."""


def collate(parts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Batch:
    """(context, completion) ids, padded on the right with id 0, which no loss and no attention sees.

    input_ids, attention_mask: (rows, longest) int64. completion_mask: same shape, true on completion tokens.
    """
    longest = max(len(context) + len(completion) for context, completion in parts)
    input_ids = torch.zeros((len(parts), longest), dtype=torch.long)
    attention = torch.zeros((len(parts), longest), dtype=torch.long)
    completion_mask = torch.zeros((len(parts), longest), dtype=torch.bool)
    for at, (context, completion) in enumerate(parts):
        end = len(context) + len(completion)
        input_ids[at, :end] = torch.tensor([*context, *completion])
        attention[at, :end] = 1
        completion_mask[at, len(context) : end] = True
    return {"input_ids": input_ids, "attention_mask": attention, "completion_mask": completion_mask}


def completion_logps(model: nn.Module, batch: Batch, weights: Tensor | None = None) -> Tensor:
    """Summed log-probability of each row's completion, float32, shape (rows,); `weights` (as `input_ids`) weigh tokens.

    The vocabulary projection, a fifth of the work of a small model, runs on the positions that predict a completion
    token only. What all rows begin with (the template's system prompt) is run once and its keys and values are shared.
    `model` may be wrapped (DDP, PEFT): it is called through its own forward.
    """
    ids, attention = batch["input_ids"], batch["attention_mask"]
    predicts = batch["completion_mask"][:, 1:]
    targets = ids[:, 1:][predicts]
    keep = nn.functional.pad(predicts, (0, 1))
    plain = _unwrapped(model)
    _choose_attention(plain, ids)
    # DDP counts on one forward pass a step, and a recomputed one would fill the cache twice.
    alone = model is plain and not plain.is_gradient_checkpointing
    past = _beginning(model, ids, shared_length(ids, keep)) if alone else None
    start = past.get_seq_length() if past else 0
    with _only(keep[:, start:], plain):
        logits = model(
            input_ids=ids[:, start:], attention_mask=attention, past_key_values=past, use_cache=past is not None
        ).logits
    logps = target_logps(logits, targets)
    if weights is not None:
        logps = logps * weights[:, 1:][predicts]
    row = predicts.nonzero()[:, 0]
    return torch.zeros(len(predicts), device=logits.device).index_add(0, row, logps)


def sequence_logps(model: nn.Module, rows: Sequence[Sequences], batch_size: int, bf16: bool) -> list[tuple[float, ...]]:
    """Log-probability of every completion of every row under `model` as it is, without gradients, in row order.

    `batch_size` counts rows. `bf16` computes under autocast, as training does. Dropout is off meanwhile.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    found: dict[int, tuple[float, ...]] = {}
    by_length = sorted(range(len(rows)), key=lambda i: (rows[i].longest, i))
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for at in range(0, len(rows), batch_size):
            indices = by_length[at : at + batch_size]
            parts = [(rows[i].context, completion) for i in indices for completion in rows[i].completions]
            batch = {name: tensor.to(device) for name, tensor in collate(parts).items()}
            values = iter(completion_logps(model, batch).tolist())
            found.update({i: tuple(next(values) for _ in rows[i].completions) for i in indices})
    model.train(training)
    return [found[i] for i in range(len(rows))]


def shared_length(input_ids: Tensor, keep: Tensor) -> int:
    """How many tokens all rows begin with, as far as no row predicts a completion token from them (`keep`)."""
    same = (input_ids == input_ids[:1]).all(0) & ~keep.any(0)
    return int(same.int().cumprod(0).sum())


def _beginning(model: Any, input_ids: Tensor, length: int) -> DynamicCache | None:
    """Keys and values of the first `length` tokens, computed once and seen by every row; None where it does not pay.

    Gradients of all rows flow back into them: the loss and its gradient are those of the plain pass.
    """
    rows = len(input_ids)
    cache = DynamicCache(config=model.config)
    if rows < 2 or length < WORTH_SHARING or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    with _only(torch.zeros((1, length), dtype=torch.bool, device=input_ids.device), model):
        model(input_ids=input_ids[:1, :length], past_key_values=cache, use_cache=True)
    shared = [
        (layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1))
        for layer in cache.layers
        if isinstance(layer, DynamicLayer) and layer.keys is not None and layer.values is not None
    ]
    return DynamicCache(shared)


def _unwrapped(model: Any) -> Any:
    while hasattr(model, "module"):
        model = model.module
    return model


def _choose_attention(model: Any, input_ids: Tensor) -> None:
    now = model.config._attn_implementation
    if input_ids.device.type == "cpu" and model._supports_sdpa and now in ("sdpa", "eager"):
        best = "eager" if input_ids.shape[1] <= SHORT else "sdpa"
        if best != now:
            model.set_attn_implementation(best)


@contextmanager
def _only(keep: Tensor, model: Any) -> Iterator[None]:
    """Inside, the output projection of `model` sees the hidden states where `keep` is true, as (n, width)."""
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0][keep],))
    try:
        yield
    finally:
        hook.remove()
