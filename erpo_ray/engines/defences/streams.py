"""A batch of sequences in one model, a token at a time: plain, contrasted with a second batch, or steered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from erpo_ray.errors import UsageError
from erpo_ray.evaluate.defences import contrast

Ids = Sequence[int]


class Lane(Protocol):
    """A batch that is being decoded. `logits` are those of the next token, (rows, vocabulary) float32."""

    @property
    def logits(self) -> Tensor: ...

    def feed(self, tokens: Tensor) -> None:
        """Append one token to each row; `tokens` is (rows,)."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, in this order."""
        ...


class Stream:
    """Plain decoding with a KV cache. Rows are padded on the left; positions count from a row's own first token."""

    def __init__(self, model: Any, rows: Sequence[Ids]) -> None:
        ids, self._mask = padded(rows, model.device)
        self._model = model
        self._cache: Any = DynamicCache(config=model.config)
        self.logits = self._forward(ids, positions(self._mask))

    def feed(self, tokens: Tensor) -> None:
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        self.logits = self._forward(tokens[:, None], positions(self._mask)[:, -1:])

    def keep(self, rows: Tensor) -> None:
        self._cache.reorder_cache(rows)
        self._mask, self.logits = self._mask[rows], self.logits[rows]

    def _forward(self, ids: Tensor, at: Tensor) -> Tensor:
        out = self._model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=at,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1].float()


class Contrast:
    """Two streams that are fed the same tokens; the logits of the second are subtracted `alpha` times."""

    def __init__(self, plain: Stream, reverse: Stream, alpha: float) -> None:
        self._plain, self._reverse, self._alpha = plain, reverse, alpha

    @property
    def logits(self) -> Tensor:
        return contrast(self._plain.logits, self._reverse.logits, self._alpha)

    def feed(self, tokens: Tensor) -> None:
        self._plain.feed(tokens)
        self._reverse.feed(tokens)

    def keep(self, rows: Tensor) -> None:
        self._plain.keep(rows)
        self._reverse.keep(rows)


class Steered(Stream):
    """A stream whose states are shifted in some layers, from the last prompt token on.

    `shifts` holds what is added after a decoder layer, (rows, width) each.
    """

    def __init__(self, model: Any, rows: Sequence[Ids], shifts: Mapping[int, Tensor]) -> None:
        self._shifts = dict(shifts)
        super().__init__(model, rows)

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self._shifts = {layer: shift[rows] for layer, shift in self._shifts.items()}

    def _forward(self, ids: Tensor, at: Tensor) -> Tensor:
        def shift(layer: int, hidden: Tensor) -> None:
            # The last position is the one that predicts, in the prompt and in every step after it.
            hidden[:, -1] += self._shifts[layer]

        with _after_layers(self._model, list(self._shifts), shift):
            return super()._forward(ids, at)


@torch.inference_mode()
def states(model: Any, prompts: Sequence[Ids], opener: Ids) -> tuple[np.ndarray, np.ndarray]:
    """States after every decoder layer at the last prompt token, and at the last token of `opener` put behind it.

    Two arrays of shape (prompts, layers, width), float32.
    """
    ids, mask = padded([(*prompt, *opener) for prompt in prompts], model.device)
    seen: list[Tensor] = []
    with _after_layers(
        model, range(len(layers(model))), lambda _, hidden: seen.append(hidden[:, [-1 - len(opener), -1]].float())
    ):
        model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False, logits_to_keep=1)
    both = torch.stack(seen, dim=1).cpu().numpy()
    return both[:, :, 0], both[:, :, 1]


def layers(model: Any) -> Any:
    """The decoder layers in order. Raises UsageError for a model that does not name them as most do."""
    found = getattr(model.get_decoder(), "layers", None)
    if found is None:
        raise UsageError(
            f"{type(model).__name__}: found no decoder layers to steer; scans works on models whose decoder lists them "
            "as `layers`, use rose for this one"
        )
    return found


def padded(rows: Sequence[Ids], device: Any) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, (rows, longest) int64: padded on the left with id 0, which no attention sees."""
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def positions(mask: Tensor) -> Tensor:
    """Position of each token in its own row, 0 for padding."""
    return (mask.cumsum(1) - 1).clamp(min=0)


@contextmanager
def _after_layers(model: Any, which: Sequence[int], act: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Inside, `act` gets (layer, states) of every forward pass and may change the states in place."""

    def hook(layer: int) -> Callable[..., None]:
        # Some architectures return a tuple that begins with the states.
        return lambda module, inputs, output: act(layer, output if isinstance(output, Tensor) else output[0])

    found = layers(model)
    handles = [found[layer].register_forward_hook(hook(layer)) for layer in which]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
