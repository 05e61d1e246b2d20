"""A tree of segments as one packed forward pass: no padding in any layer but attention, no token computed twice.

Attention is a function of our own behind transformers' interface for such, so the models stay theirs. It looks at each
segment together with the path above it, level by level or, on a GPU, all in one call (`flex`). A segment that many rows
share is computed once, its keys and values are seen by all of them, and gradients of all of them flow back into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from erpo_ray.train import flex
from erpo_ray.train.tree import Tree, plant

Batch = dict[str, Any]
"""Tensors by name, and lists of such: what a trainer can move to its device."""
Row = tuple[Sequence[int], Sequence[int]]

ATTENTION = "erpo_tree"
SHORT = 512
"""Up to this many keys plain attention beats the fused one on a CPU, whose bf16 backward pass is slow there."""


def pack(rows: Sequence[Row], whole: bool = False) -> Batch:
    """(context, completion) rows as one pass.

    input_ids, position_ids: (1, tokens). Where attention takes the row as a whole, tree: what `flex.layout` gives; else
    levels: of each depth of the tree a dict of

    - queries: (segments, longest), positions in the pass; what pads them is position 0,
    - real: same shape, false on padding,
    - keys: (segments, longest path + longest), what stands above a segment and then itself,
    - seen: (segments, longest, keys), what each query may look at,

    and what `losses_of` gives, with `predicts` as positions in the pass.
    """
    tree = plant([(tuple(context), tuple(completion)) for context, completion in rows])
    at, offsets = 0, []
    for segment in tree.segments:
        offsets.append(at)
        at += len(segment.tokens)
    ids = [token for segment in tree.segments for token in segment.tokens]
    positions = [segment.start + i for segment in tree.segments for i in range(len(segment.tokens))]
    depth = 1 + max(segment.level for segment in tree.segments)
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        **({"tree": flex.layout(tree)} if whole else {"levels": [_level(tree, offsets, at) for at in range(depth)]}),
        **_losses(tree, offsets),
    }


def _losses(tree: Tree, offsets: Sequence[int]) -> Batch:
    """Each distinct completion token once, however many rows end with it."""
    predicts: list[int] = []
    targets: list[int] = []
    first: dict[int, int] = {}
    for index, segment in enumerate(tree.segments):
        first[index] = len(targets)
        above = offsets[segment.parent] + len(tree.segments[segment.parent].tokens)
        for at in range(len(segment.tokens) - segment.completion, len(segment.tokens)):
            predicts.append((offsets[index] + at if at else above) - 1)
            targets.append(segment.tokens[at])
    counts = [tree.segments[leaf].completion for leaf in tree.leaves]
    token = [first[leaf] + i for leaf, count in zip(tree.leaves, counts, strict=True) for i in range(count)]
    return losses_of(predicts, targets, counts, token)


def losses_of(predicts: Sequence[int], targets: Sequence[int], counts: Sequence[int], token: Sequence[int]) -> Batch:
    """Where the loss is.

    predicts, targets: of each distinct completion token the position before it and its id. row, token: of each
    completion token of each row that row, and which distinct token it is. completion_tokens: (rows,), their number.
    """
    tokens = torch.tensor(counts)
    return {
        "predicts": torch.tensor(predicts),
        "targets": torch.tensor(targets),
        "row": torch.arange(len(counts)).repeat_interleave(tokens),
        "token": torch.tensor(token),
        "completion_tokens": tokens,
    }


def _level(tree: Tree, offsets: Sequence[int], level: int) -> Batch:
    which = [index for index, segment in enumerate(tree.segments) if segment.level == level]
    longest = max(len(tree.segments[index].tokens) for index in which)
    above = max(tree.segments[index].start for index in which)
    queries = torch.zeros(len(which), longest, dtype=torch.long)
    real = torch.zeros(len(which), longest, dtype=torch.bool)
    keys = torch.zeros(len(which), above + longest, dtype=torch.long)
    on_path = torch.zeros(len(which), above, dtype=torch.bool)
    for number, index in enumerate(which):
        (*path, own) = (
            torch.arange(offsets[each], offsets[each] + len(tree.segments[each].tokens)) for each in tree.path(index)
        )
        queries[number, : len(own)] = own
        real[number, : len(own)] = True
        keys[number, above : above + len(own)] = own
        if path:
            before = torch.cat(path)
            keys[number, : len(before)] = before
            on_path[number, : len(before)] = True
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    seen = torch.cat([on_path[:, None].expand(-1, longest, -1), causal.expand(len(which), -1, -1)], 2)
    return {"queries": queries, "real": real, "keys": keys, "seen": seen}


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    levels: Sequence[Batch] = (),
    tree: dict[str, Tensor] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """query: (1, heads, tokens, size); key, value: (1, key heads, tokens, size). Returns (1, tokens, heads, size)."""
    if tree is not None:
        return flex.attend(query, key, value, tree, scaling), None
    q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))
    found = []
    for level in levels:
        queries, keys = level["queries"], level["keys"]
        out = _attended(q[queries], k[keys], v[keys], level["seen"], scaling, dropout)
        found.append(out[level["real"]])
    return torch.cat(found)[None], None


def _attended(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scaling: float, dropout: float) -> Tensor:
    """q: (n, queries, heads, size); k, v: (n, keys, key heads, size); seen: (n, queries, keys). As q."""
    if q.device.type != "cpu" or k.shape[1] > SHORT:
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        fused = nn.functional.scaled_dot_product_attention
        return fused(q, k, v, seen[:, None], dropout, scale=scaling, enable_gqa=True).transpose(1, 2)
    n, queries, heads, size = q.shape
    groups = k.shape[2]
    # Query heads that share a key head stand side by side, so that no key is copied for them.
    q = q.view(n, queries, groups, heads // groups, size).permute(0, 2, 3, 1, 4).reshape(n, groups, -1, size)
    scores = (q @ k.permute(0, 2, 3, 1)).view(n, groups, heads // groups, queries, -1) * scaling
    scores = scores.masked_fill(~seen[:, None, None], torch.finfo(scores.dtype).min)
    weights = nn.functional.dropout(scores.softmax(-1, dtype=torch.float32).to(v.dtype), dropout)
    out = weights.view(n, groups, -1, weights.shape[-1]) @ v.transpose(1, 2)
    return out.view(n, groups, heads // groups, queries, size).permute(0, 3, 1, 2, 4).reshape(n, queries, heads, size)


def takes(model: Any) -> bool:
    """Whether a model's attention goes through the interface and is a plain one over everything before a token."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ("sliding_attention" if window else "full_attention",))
    others = ("attn_logit_softcapping", "attention_chunk_size")
    plain = kinds == {"full_attention"} and not any(getattr(config, name, None) for name in others)
    return plain and bool(model._supports_attention_backend)


AttentionInterface.register(ATTENTION, attend)
