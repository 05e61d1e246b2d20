"""Judged texts in the chat template of a judge's own tokenizer, as token ids: no text brings a special token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erpo_ray.engines import templates, tokenizer
from erpo_ray.errors import UsageError
from erpo_ray.judging.guards import Chat, Piece

_STAND_IN = 0xE000
"""First private-use character of those that mark judged texts in a rendered template."""


class ChatTokens:
    """A tokenizer that tells templates from data. `generate`: chats end where the model is to begin its turn."""

    def __init__(self, model_dir: Path | str, generate: bool) -> None:
        self.model_dir = Path(model_dir)
        self.tokenizer: Any = tokenizer.load(model_dir)
        self._generate = generate
        self._special = tuple(t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special)

    def chat(self, chat: Chat) -> list[int]:
        """Ids of a chat. UsageError when the template is missing, or does not hold the texts as they are."""
        return self.ids(self._rendered(chat))

    def ids(self, pieces: Sequence[Piece]) -> list[int]:
        """Of pieces: in one go, as models are trained, unless data holds special-token strings; then piece by piece."""
        if not any(special in text for text, is_data in pieces if is_data for special in self._special):
            return self.encode("".join(text for text, _ in pieces), plain=False)
        return [token for text, is_data in pieces for token in self.encode(text, plain=is_data)]

    def encode(self, text: str, plain: bool) -> list[int]:
        """Of one text, with `plain` read without special tokens."""
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=plain)["input_ids"]

    def _rendered(self, chat: Chat) -> list[Piece]:
        """The text of a chat in pieces, judged texts apart."""
        if not self.tokenizer.chat_template:
            raise UsageError(
                f"{self.model_dir}: the judge's tokenizer has no chat template, which writes its prompt; put the "
                "model's own chat_template.jinja beside it"
            )
        data = [text for _, pieces in chat.messages for text, is_data in pieces if is_data]
        marks = [chr(_STAND_IN + i) for i in range(len(data))]
        left = iter(marks)
        messages = []
        for role, pieces in chat.messages:
            text = "".join(next(left) if is_data else text for text, is_data in pieces)
            messages.append({"role": role, "content": [{"type": "text", "text": text}] if chat.parts else text})
        rest = templates.apply(
            self.tokenizer, self.model_dir, messages, add_generation_prompt=self._generate, **dict(chat.variables)
        )
        out: list[Piece] = []
        for mark, text in zip(marks, data, strict=True):
            before, found, rest = rest.partition(mark)
            if not found or mark in rest:
                raise UsageError(
                    f"{self.model_dir}: the chat template does not hold each judged text exactly once and in order; "
                    "choose a model, or a guard format, that fits"
                )
            out += [(before, False), (text, True)]
        return [*out, (rest, False)]
