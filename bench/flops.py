"""The floating-point operations that a training step asks for, and what a device could do: plain arithmetic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from erpo_ray.train.tree import Tree

TERA = 10**12
PEAKS = {"H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "H200": 989, "A100": 312, "L40S": 362}
"""Dense bf16 operations a second, times 10^12, by what stands in a device's name: the makers' data sheets."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What costs products in a decoder.

    `body`: weights of all layers, norms aside. `head`: weights of the vocabulary projection. `width`: numbers of all
    query heads of a layer together.
    """

    body: int
    head: int
    layers: int
    width: int


def shape(model: Any) -> Shape:
    """Of a transformers causal language model."""
    config = model.config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    body = sum(weight.numel() for weight in model.get_decoder().layers.parameters() if weight.ndim == 2)
    head = model.get_output_embeddings().weight.numel()
    return Shape(body, head, config.num_hidden_layers, size * config.num_attention_heads)


def step(trees: Iterable[Tree], shape: Shape) -> int:
    """Operations of forward and backward over these passes, each token of a pass once.

    A weight takes 2 operations a token forward and 4 backward, the vocabulary projection those of completion tokens
    only. A token and one that it sees take 4 a number of the heads forward (their product, the weighted sum), 12 in
    all. Activations that are computed again are not counted, nor are norms, softmax and the optimiser.
    """
    found = 0
    for tree in trees:
        projected = sum(segment.completion for segment in tree.segments)
        found += 6 * (shape.body * tree.tokens + shape.head * projected) + 12 * shape.layers * shape.width * seen(tree)
    return found


def seen(tree: Tree) -> int:
    """Pairs of a token and one that it sees, itself among them."""
    lengths = ((segment.start, len(segment.tokens)) for segment in tree.segments)
    return sum(length * start + length * (length + 1) // 2 for start, length in lengths)


def peak(device: str) -> int | None:
    """Dense bf16 operations a second of a device of this name; None for one that is not known here."""
    return next((tera * TERA for part, tera in PEAKS.items() if part in device), None)
