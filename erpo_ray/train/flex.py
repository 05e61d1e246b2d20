"""Attention over the tree of segments in one call over the packed row, nothing padded: FlexAttention, for GPUs.

Where versions of torch differ in it, this is the one place. A CPU runs it without its compiler, slowly, in tests.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from erpo_ray.train.tree import Tree

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

BLOCK = 128
"""Queries, and keys, that the kernel takes or leaves out together."""
SMALLEST_HEAD = 16
"""Fewest numbers a head that it takes."""
# Short passes would go to a kernel for decoding, which shares keys among 2, 4, 8 ... query heads only.
OPTIONS: Any = {"FORCE_USE_FLEX_ATTENTION": True}


def takes(model: Any) -> bool:
    """Whether the kernel can stand in for a model's attention: on a GPU, without dropout, heads not too small."""
    config = model.config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dropout = getattr(config, "attention_dropout", None)
    return model.device.type == "cuda" and not dropout and size >= SMALLEST_HEAD


def layout(tree: Tree) -> dict[str, Tensor]:
    """What the kernel has to know of a tree whose segments stand one behind the other.

    entry, exit: (tokens,), when a depth-first walk comes to the segment of each token and when it leaves.
    kv_num_blocks, kv_indices: (1, 1, blocks) and (1, 1, blocks, blocks), how many blocks of keys each block of queries
    sees in part, and which they are, first of all blocks; full_*: the same of those that all its queries see wholly.
    """
    lengths = torch.tensor([len(segment.tokens) for segment in tree.segments])
    entry, exit = torch.tensor(tree.intervals(), dtype=torch.int32).unbind(1)
    pairs = _pairs(lengths, entry, exit)
    whole = pairs == BLOCK**2
    partly, fully = _ordered((pairs > 0) & ~whole), _ordered(whole)
    return {
        "entry": entry.repeat_interleave(lengths),
        "exit": exit.repeat_interleave(lengths),
        "kv_num_blocks": partly[0],
        "kv_indices": partly[1],
        "full_kv_num_blocks": fully[0],
        "full_kv_indices": fully[1],
    }


def _pairs(lengths: Tensor, entry: Tensor, exit: Tensor) -> Tensor:
    """(blocks, blocks), how many of its pairs of a query and a key are seen, from the segments alone."""
    ends = lengths.cumsum(0)
    edges = torch.arange(0, int(ends[-1]) + BLOCK, BLOCK)
    inside = torch.minimum(ends[:, None], edges[1:]) - torch.maximum((ends - lengths)[:, None], edges[:-1])
    # Products of whole numbers up to BLOCK^2: exact, and fast, in this type.
    inside = inside.clamp(min=0).double()
    above = (entry <= entry[:, None]) & (entry[:, None] < exit)
    above.fill_diagonal_(False)
    own = (inside.T @ inside).tril(-1) + (inside * (inside + 1) / 2).sum(0).diag()
    return inside.T @ above.double() @ inside + own


def _ordered(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row of blocks the number chosen, and all blocks with these first, as a `BlockMask` has them."""
    return (
        chosen.sum(1, dtype=torch.int32)[None, None],
        chosen.int().argsort(dim=1, descending=True, stable=True).int()[None, None],
    )


def seen(entry: Tensor, exit: Tensor) -> MaskMod:
    """Whether the token at `query` looks at the one at `key`: it stands on its path, not behind it.

    Segments stand level by level, so what is above a token, in its segment or on the path, stands before it.
    """

    def mask_mod(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = entry[query]
        return (key <= query) & (entry[key] <= own) & (own < exit[key])

    return mask_mod


def attend(query: Tensor, key: Tensor, value: Tensor, tree: dict[str, Tensor], scaling: float) -> Tensor:
    """query: (1, heads, tokens, size); key, value: (1, key heads, tokens, size); tree: what `layout` gives.

    Returns (1, tokens, heads, size).
    """
    run = _compiled() if query.is_cuda else _run
    # Under autocast rotated queries and keys are float32 while values are not; the kernel wants one type.
    return run(query.to(value.dtype), key.to(value.dtype), value, tree, scaling).transpose(1, 2)


def _run(query: Tensor, key: Tensor, value: Tensor, tree: dict[str, Tensor], scaling: float) -> Tensor:
    # Made in here, where the length is that of the tensors: as a number of its own each new one would be compiled anew.
    tokens: Any = query.shape[2]
    blocks = BlockMask.from_kv_blocks(
        tree["kv_num_blocks"],
        tree["kv_indices"],
        tree["full_kv_num_blocks"],
        tree["full_kv_indices"],
        BLOCK_SIZE=BLOCK,
        mask_mod=seen(tree["entry"], tree["exit"]),
        seq_lengths=(tokens, tokens),
    )
    out: Any = flex_attention(
        query, key, value, block_mask=blocks, scale=scaling, enable_gqa=True, kernel_options=OPTIONS
    )
    return out


@cache
def _compiled() -> Callable[..., Tensor]:
    """Without it the scores of all pairs of tokens would be held."""
    return torch.compile(_run)
