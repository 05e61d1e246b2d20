"""One forward pass that gives log-probabilities of completions and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from erpo_ray.train import flex, packed, signs
from erpo_ray.train.losses import target_logps
from erpo_ray.train.packed import Batch, Row
from erpo_ray.train.rows import Sequences

T = TypeVar("T")
Collate = Callable[[Sequence[Row]], Batch]


def collator(model: Any) -> Collate:
    """How rows become a batch for this model, on its device: packed where its attention can be told what a token sees,
    else padded."""
    return partial(packed.pack, whole=flex.takes(model)) if packed.takes(model) else pad


def pad(rows: Sequence[Row]) -> Batch:
    """(context, completion) ids, padded on the right with id 0, which no loss and no attention sees.

    input_ids, attention_mask: (rows, longest). The rest is what `packed.losses_of` gives, with `predicts` as positions
    in the rows one after the other.
    """
    longest = max(len(context) + len(completion) for context, completion in rows)
    input_ids = torch.zeros((len(rows), longest), dtype=torch.long)
    attention = torch.zeros((len(rows), longest), dtype=torch.long)
    predicts: list[int] = []
    for at, (context, completion) in enumerate(rows):
        end = len(context) + len(completion)
        input_ids[at, :end] = torch.tensor([*context, *completion])
        attention[at, :end] = 1
        predicts += range(at * longest + len(context) - 1, at * longest + end - 1)
    targets = [token for _, completion in rows for token in completion]
    counts = [len(completion) for _, completion in rows]
    losses = packed.losses_of(predicts, targets, counts, range(len(targets)))
    return {"input_ids": input_ids, "attention_mask": attention, **losses}


def tokens_of(batch: Batch) -> int:
    """Tokens that a pass over the batch computes, padding not counted."""
    return int(batch["attention_mask"].sum()) if "attention_mask" in batch else batch["input_ids"].numel()


def completion_logps(model: nn.Module, batch: Batch, weights: Tensor | None = None) -> Tensor:
    """Summed log-probability of each row's completion, float32, shape (rows,).

    `weights` are those of the completion tokens, all rows one after the other.
    """
    return summed(completion_logits(model, batch), batch, weights)


def token_logps(model: nn.Module, batch: Batch) -> Tensor:
    """Log-probability of each completion token, all rows one after the other, float32, shape (tokens,)."""
    return per_token(completion_logits(model, batch), batch)


def completion_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Logits that predict each distinct completion token, (distinct tokens, vocabulary).

    The vocabulary projection, a fifth of the work of a small model, runs on these positions only. `model` may be
    wrapped (DDP, PEFT): it is called through its own forward.
    """
    plain = _unwrapped(model)
    inputs = {name: batch[name] for name in ("attention_mask", "position_ids", "levels", "tree") if name in batch}
    if "position_ids" in batch and plain.config._attn_implementation != packed.ATTENTION:
        plain.set_attn_implementation(packed.ATTENTION)
    with _only(batch["predicts"], plain):
        return model(input_ids=batch["input_ids"], use_cache=False, **inputs).logits


def per_token(logits: Tensor, batch: Batch) -> Tensor:
    """What `token_logps` gives, from the logits of the batch."""
    return target_logps(logits, batch["targets"])[batch["token"]]


def summed(logits: Tensor, batch: Batch, weights: Tensor | None = None) -> Tensor:
    """What `completion_logps` gives, from the logits of the batch."""
    logps = per_token(logits, batch)
    if weights is not None:
        logps = logps * weights
    return torch.zeros(len(batch["completion_tokens"]), device=logits.device).index_add(0, batch["row"], logps)


def sequence_logps(model: nn.Module, rows: Sequence[Sequences], batch_size: int, bf16: bool) -> list[tuple[float, ...]]:
    """Log-probability of every completion of every row under `model` as it is, without gradients, in row order.

    `batch_size` counts rows. `bf16` computes under autocast, as training does. Dropout is off meanwhile.
    """
    return _scored(model, rows, batch_size, bf16, lambda batch: completion_logps(model, batch).tolist())


def sequence_token_logps(
    model: nn.Module, rows: Sequence[Sequences], batch_size: int, bf16: bool
) -> list[tuple[tuple[float, ...], ...]]:
    """As `sequence_logps`, of each token of every completion."""

    def of_tokens(batch: Batch) -> list[tuple[float, ...]]:
        parts = token_logps(model, batch).split(batch["completion_tokens"].tolist())
        return [tuple(part.tolist()) for part in parts]

    return _scored(model, rows, batch_size, bf16, of_tokens)


def _scored(
    model: nn.Module, rows: Sequence[Sequences], batch_size: int, bf16: bool, score: Callable[[Batch], list[T]]
) -> list[tuple[T, ...]]:
    """What `score` says of every completion of every row."""
    device = next(model.parameters()).device
    training, collate = model.training, collator(model)
    model.eval()
    found: dict[int, tuple[T, ...]] = {}
    # Rows of one context side by side: what they share is computed once.
    by_context = sorted(range(len(rows)), key=lambda i: (rows[i].longest, rows[i].context, i))
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for at in range(0, len(rows), batch_size):
            signs.mark("score")
            indices = by_context[at : at + batch_size]
            parts = [(rows[i].context, completion) for i in indices for completion in rows[i].completions]
            batch: Any = send_to_device(collate(parts), device)
            values = iter(score(batch))
            found.update({i: tuple(next(values) for _ in rows[i].completions) for i in indices})
    model.train(training)
    return [found[i] for i in range(len(rows))]


def _unwrapped(model: Any) -> Any:
    while hasattr(model, "module"):
        model = model.module
    return model


@contextmanager
def _only(positions: Tensor, model: Any) -> Iterator[None]:
    """Inside, the output projection of `model` sees the hidden states at these positions, as (n, width)."""
    hook = model.get_output_embeddings().register_forward_pre_hook(
        lambda _, inputs: (inputs[0].flatten(0, 1)[positions],)
    )
    try:
        yield
    finally:
        hook.remove()
