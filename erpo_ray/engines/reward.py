"""A reward or cost model: a sequence classifier with one output, through transformers, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erpo_ray.config.judges import JudgeReward
from erpo_ray.engines.chat_tokens import ChatTokens
from erpo_ray.errors import UsageError
from erpo_ray.judging.guards import Chat
from erpo_ray.types import Failure


class RewardModel:
    """Scores answers; `score` is what a RewardJudge asks. float32 on CPU, bfloat16 on a GPU.

    Raises UsageError for a model with more than one output, and for a tokenizer without a chat template.
    """

    def __init__(self, model_dir: Path, settings: JudgeReward, gpu: bool = False) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification

        self._settings = settings
        self._tokens = ChatTokens(model_dir, generate=False)
        self._device = "cuda" if gpu else "cpu"
        dtype = torch.bfloat16 if gpu else torch.float32
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            str(model_dir), dtype=dtype, use_safetensors=True
        )
        if model.config.num_labels != 1:
            raise UsageError(
                f"{model_dir}: found a classifier with {model.config.num_labels} outputs; a reward_model has one"
            )
        pad = self._tokens.tokenizer.pad_token_id
        # A decoder reads its score at the last token that is no padding, which it knows by this id.
        model.config.pad_token_id = self._tokens.tokenizer.eos_token_id if pad is None else pad
        self._model = model.to(self._device).eval()

    def score(self, items: Sequence[tuple[str, str]]) -> list[float | Failure]:
        """The raw score of each (prompt, answer), in order. What is too long is a Failure `too_long`."""
        ids = [self._tokens.chat(_chat(prompt, answer)) for prompt, answer in items]
        room = self._settings.max_length
        out: list[float | Failure] = [Failure("too_long", f"{len(row)} tokens, the limit is {room}") for row in ids]
        # Rows of like length share a batch, so that little is padding.
        fitting = sorted((i for i, row in enumerate(ids) if len(row) <= room), key=lambda i: len(ids[i]))
        size = self._settings.batch_size
        for start in range(0, len(fitting), size):
            batch = fitting[start : start + size]
            for i, score in zip(batch, self._batch([ids[i] for i in batch]), strict=True):
                out[i] = score
        return out

    def _batch(self, rows: Sequence[list[int]]) -> list[float]:
        import torch

        longest = max(map(len, rows))
        pad = self._model.config.pad_token_id
        padded = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=self._device)
        lengths = torch.tensor([[len(row)] for row in rows], device=self._device)
        mask = (torch.arange(longest, device=self._device) < lengths).long()
        with torch.inference_mode():
            return self._model(input_ids=padded, attention_mask=mask).logits[:, 0].float().tolist()


def _chat(prompt: str, answer: str) -> Chat:
    return Chat((("user", ((prompt, True),)), ("assistant", ((answer, True),))))
