"""One talk with a policy through transformers: for a person at a terminal, who would wait for an engine to start."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from erpo_ray import environment
from erpo_ray.engines.renderer import Renderer


def generate(model_dir: Path, texts: Sequence[str], max_tokens: int) -> str:
    """The greedy completion of a chat, without special tokens: `texts` are the user's and the assistant's by turns.

    It is rendered as the run rendered its prompts: what reads like a special token in a text never becomes one. The
    model of the last call stays loaded.
    """
    import torch

    renderer, model = _loaded(model_dir)
    ids = torch.tensor([renderer.render(*texts)], device=model.device)
    stops = list(renderer.stop_ids)
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=stops,
            pad_token_id=stops[0],
        )
    return renderer.decode(out[0][ids.shape[1] :].tolist())


@lru_cache(maxsize=1)
def _loaded(model_dir: Path) -> tuple[Renderer, Any]:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if environment.bf16(device == "cuda") else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(str(model_dir), dtype=dtype, use_safetensors=True)
    return Renderer(model_dir), model.to(device).eval()
