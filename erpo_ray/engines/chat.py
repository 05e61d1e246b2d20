"""One talk with a policy through transformers: for a person at a terminal, who would wait for an engine to start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from erpo_ray import environment
from erpo_ray.engines import templates


def generate(model_dir: Path, messages: Sequence[Mapping[str, str]], max_tokens: int) -> str:
    """The greedy completion of a chat (`role` and `content` each), without special tokens.

    The model of the last call stays loaded.
    """
    import torch

    tokenizer, model = _loaded(model_dir)
    text = templates.apply(tokenizer, model_dir, messages, add_generation_prompt=True)
    inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        out = model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
    return tokenizer.decode(out[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@lru_cache(maxsize=1)
def _loaded(model_dir: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if environment.bf16(device == "cuda") else torch.float32
    tokenizer = AutoTokenizer.from_pretrained(str(model_dir))
    model: Any = AutoModelForCausalLM.from_pretrained(str(model_dir), dtype=dtype, use_safetensors=True)
    return tokenizer, model.to(device).eval()
