"""ROSE: what the model would say under a reverse prompt is subtracted while it decodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from erpo_ray.config.decoding import Rose as Settings
from erpo_ray.engines.defences.streams import Contrast, Stream
from erpo_ray.engines.renderer import Renderer, SystemRenderer
from erpo_ray.errors import UsageError
from erpo_ray.types import Request, identity

_PROBE = "Hello"


class Rose:
    """Reverse-prompt contrastive decoding. The branch s+ is the request's own prompt ids, unchanged."""

    def __init__(self, renderer: Renderer, settings: Settings) -> None:
        self._settings, self._plain = settings, renderer
        self._reverse = SystemRenderer(renderer.model_dir, settings.reverse)
        self._head, self._reverse_head = _heads(renderer.render(_PROBE), self._reverse.render(_PROBE))

    @property
    def name(self) -> str:
        return f"rose-{self._settings.alpha:g}-{identity(self._settings.reverse)[:8]}"

    def lane(self, model: Any, requests: Sequence[Request]) -> Contrast:
        plain = Stream(model, [request.prompt_ids for request in requests])
        reverse = Stream(model, [self.reversed(request) for request in requests])
        return Contrast(plain, reverse, self._settings.alpha)

    def reversed(self, request: Request) -> tuple[int, ...]:
        """The request's prompt ids with the reverse system prompt in the place of the template's own, if any.

        Everything behind it stays token for token, further turns too. Where a template joins the two so that no
        boundary between tokens is left, the prompt is rendered anew; a prompt that was not rendered from its text
        alone is then a UsageError.
        """
        ids, head = request.prompt_ids, len(self._head)
        if ids[:head] == self._head:
            return (*self._reverse_head, *ids[head:])
        if ids == self._plain.render(request.prompt.text):
            return self._reverse.render(request.prompt.text)
        raise UsageError(
            f"prompt {request.prompt.id}: its ids do not begin as the chat template of {self._plain.model_dir} does, "
            "so rose cannot give it a reverse system prompt; use prompts of one user message, or another defence"
        )


def _heads(plain: Sequence[int], reverse: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What two sequences begin with before their common ending."""
    common = 0
    while common < min(len(plain), len(reverse)) and plain[-1 - common] == reverse[-1 - common]:
        common += 1
    return tuple(plain[: len(plain) - common]), tuple(reverse[: len(reverse) - common])
