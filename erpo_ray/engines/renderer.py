"""The one place where text becomes token ids and back: prompts, completions and traces of every room pass here."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from erpo_ray.engines import templates, tokenizer
from erpo_ray.errors import UsageError
from erpo_ray.traces import PIVOTS

_STAND_IN = 0xE000
"""First private-use character of those that mark the texts of messages in a rendered template."""


class Renderer:
    """Tokenizer and chat template of one model directory.

    `eos_id` closes an assistant turn; `stop_ids` are all ids that end a completion (it is one of them).
    Raises UsageError when the model has no chat template.
    """

    def __init__(self, model_dir: Path | str) -> None:
        self.model_dir = Path(model_dir)
        self._tokenizer: Any = tokenizer.load(model_dir)
        if not self._tokenizer.chat_template:
            raise UsageError(
                f"{model_dir}: the model has no chat template; use its instruct or chat variant, "
                "or put a chat_template.jinja beside its tokenizer"
            )
        added = self._tokenizer.added_tokens_decoder.values()
        self._pivots = tuple(t.content for t in added if t.content in PIVOTS)
        self._reserved = (*(t.content for t in added if t.special), *self._pivots)
        self.stop_ids = stop_ids(self._tokenizer, self.model_dir)
        self.eos_id = self._closing_id()

    def render(self, text: str, *further: str) -> tuple[int, ...]:
        """Ids of the chat with `text` as the user's first message, ending where the assistant's turn begins.

        `further` messages are the assistant's and the user's by turns; the last of all is the user's. What reads like a
        special token or a pivot inside any of them stays plain text: it never becomes that token.
        """
        texts = (text, *further)
        if not any(token in each for each in texts for token in self._reserved):
            return tuple(self._ids(self._template(texts)))
        marks = [chr(_STAND_IN + i) for i in range(len(texts))]
        ids: list[int] = []
        rest = self._template(marks)
        for mark, each in zip(marks, texts, strict=True):
            before, found, rest = rest.partition(mark)
            if not found or mark in rest:
                raise UsageError(f"{self.model_dir}: the chat template does not hold each message just once, in order")
            ids += [*self._ids(before), *self._data(each)]
        return (*ids, *self._ids(rest))

    def under(self, system: str) -> Renderer:
        """The renderer of the same model whose chats begin with `system`; this one when it is empty."""
        return SystemRenderer(self.model_dir, system) if system else self

    @property
    def template(self) -> str:
        """The chat template itself."""
        return self._tokenizer.get_chat_template()

    def encode_completion(self, text: str) -> tuple[int, ...]:
        """Ids of an assistant's turn as an engine would draw them: plain text with pivots, then `eos_id`."""
        return (*self._ids(text, plain=True), self.eos_id)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` without special tokens."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def show(self, ids: Sequence[int]) -> str:
        """Text of `ids` with special tokens, for a person to look at."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Text of each id; joined they equal `decode(ids)`.

        A character spread over several ids belongs to the last of them; special tokens are empty.
        """
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=True)
        out = [stream.step(self._tokenizer.backend_tokenizer, token) or "" for token in ids]
        rest = self.decode(ids)[sum(map(len, out)) :]
        if rest:
            out[-1] += rest
        return out

    def count(self, text: str) -> int:
        """Tokens of `text` as plain text, without an end of sequence."""
        return len(self._ids(text, plain=True))

    def _ids(self, text: str, plain: bool = False) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False, split_special_tokens=plain)["input_ids"]

    def _data(self, text: str) -> list[int]:
        """Ids of a text that is nobody's to steer with: a pivot, which is no special token, is taken apart."""
        cut = [at.start() + 1 for pivot in self._pivots for at in re.finditer(re.escape(pivot), text)]
        ends = [0, *sorted(cut), len(text)]
        return [token for start, end in pairwise(ends) for token in self._ids(text[start:end], plain=True)]

    def _template(self, texts: Sequence[str]) -> str:
        """The chat of these messages, the user's first, rendered. TemplateFault when it cannot be."""
        return self._rendered(chat_of(texts), add_generation_prompt=True)

    def _rendered(self, chat: Sequence[templates.Message], **more: Any) -> str:
        return templates.apply(self._tokenizer, self.model_dir, chat, **more)

    def _closing_id(self) -> int:
        """The stop id that the template writes after an assistant's message, else the tokenizer's own."""
        mark = chr(_STAND_IN)
        tail = self._rendered(chat_of(("a", mark)), add_generation_prompt=False).partition(mark)[2]
        closing = next((token for token in self._ids(tail) if token in self.stop_ids), None)
        return self._tokenizer.eos_token_id if closing is None else closing


class SystemRenderer(Renderer):
    """Puts a system prompt before the user's first message, inside it where the template knows no system.

    `separate` tells which: false for templates that refuse a system message and for those that drop it.
    """

    def __init__(self, model_dir: Path | str, system: str) -> None:
        super().__init__(model_dir)
        self._system = system.strip()
        self.separate = self._takes_system()

    def _template(self, texts: Sequence[str]) -> str:
        if self.separate:
            chat = [{"role": "system", "content": self._system}, *chat_of(texts)]
        else:
            chat = chat_of((f"{self._system}\n\n{texts[0]}", *texts[1:]))
        return self._rendered(chat, add_generation_prompt=True)

    def _takes_system(self) -> bool:
        chat = [{"role": "system", "content": self._system}, {"role": "user", "content": "Hello"}]
        try:
            return self._system in self._rendered(chat, add_generation_prompt=False)
        except templates.TemplateFault:
            return False


def chat_of(texts: Sequence[str]) -> list[dict[str, str]]:
    """The texts as messages of user and assistant by turns, the user's first."""
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)]


def stop_ids(tokenizer: Any, model_dir: Path) -> tuple[int, ...]:
    """The tokenizer's end of sequence and those of generation_config.json (chat models often list several)."""
    found = {tokenizer.eos_token_id}
    path = model_dir / "generation_config.json"
    if path.exists():
        listed = json.loads(path.read_text()).get("eos_token_id")
        found.update(listed if isinstance(listed, list) else [listed])
    return tuple(sorted(token for token in found if token is not None))
