"""Loading a policy for training and saving it for the engine."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from erpo_ray.errors import RunFailed, UsageError
from erpo_ray.objectives import Training
from erpo_ray.train.weights import dress

_AT_ONCE = 1 << 24
"""Numbers that are rounded together."""


def load(policy_dir: Path, dtype: torch.dtype = torch.float32, device: Any = "cpu") -> PreTrainedModel:
    """The policy's weights as `dtype`, on `device`. Training loads float32: bf16 weights swallow small updates."""
    transformers_logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(policy_dir, dtype=dtype, use_safetensors=True)
    return model.to(device)


def tokenizer(policy_dir: Path) -> PreTrainedTokenizerBase:
    """The policy's tokenizer. Training never encodes with it: the trainer wants its pad id."""
    found = AutoTokenizer.from_pretrained(policy_dir)
    if found.pad_token is None:
        found.pad_token = found.eos_token
    return found


def freeze(model: PreTrainedModel, layers: int) -> PreTrainedModel:
    """Leave the embeddings and the lowest `layers` decoder layers as they are. UsageError when there are not as many.

    A tied output projection is the embedding matrix, so it stays too.
    """
    if layers:
        decoder: Any = model.get_decoder()
        if layers > len(decoder.layers):
            raise UsageError(
                f"fit.freeze_layers is {layers}, but the model has {len(decoder.layers)} decoder layers; use fewer"
            )
        for part in (model.get_input_embeddings(), *decoder.layers[:layers]):
            part.requires_grad_(False)
    return model


def adapter(training: Training, model: PreTrainedModel) -> LoraConfig | None:
    """The LoRA that `training` asks for, or None for all weights. Alpha 0 means the rank: updates are not scaled.

    Where the embeddings are the output layer too and are trained whole, they stay one matrix.
    """
    if not training.lora_rank:
        return None
    return LoraConfig(
        r=training.lora_rank,
        lora_alpha=training.lora_alpha or training.lora_rank,
        target_modules=list(training.lora_targets) or "all-linear",
        modules_to_save=list(training.lora_whole) or None,
        ensure_weight_tying=bool(training.lora_whole) and bool(model.config.tie_word_embeddings),
        task_type="CAUSAL_LM",
    )


def whole(sharded: Any, weights: Any, source: Path) -> PreTrainedModel | PeftModel:
    """What `sharded` was before its weights were split over workers, with all of them, on the CPU."""
    model: Any = load(source)
    if isinstance(sharded, PeftModel):
        model = get_peft_model(model, sharded.peft_config["default"])
    model.load_state_dict(weights)
    return model


def hollow(model: PreTrainedModel) -> PreTrainedModel:
    """The same architecture without weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(model.config)


def save(model: PreTrainedModel | PeftModel, source: Path, out: Path, seed: int) -> None:
    """Write a bf16 safetensors model directory that transformers and vLLM load; a LoRA is merged first.

    `model` is spent: its weights are cast in place, `rounded` by chances that follow from `seed`. Raises RunFailed when
    a weight is not finite.
    """
    plain: Any = model.merge_and_unload() if isinstance(model, PeftModel) else model
    broken = [name for name, weight in plain.named_parameters() if not torch.isfinite(weight).all()]
    if broken:
        raise RunFailed(
            f"training left NaN or infinity in {broken[0]} and {len(broken) - 1} more; lower the learning rate"
        )
    chance = torch.Generator(plain.device).manual_seed(seed)
    for weight in plain.parameters():
        weight.data = rounded(weight.data, chance)
    out.mkdir(parents=True, exist_ok=True)
    plain.to(torch.bfloat16).save_pretrained(out)
    dress(out, source, "bfloat16")


def rounded(weight: Tensor, chance: torch.Generator) -> Tensor:
    """The weight in bf16, up or down by chance and the nearer the likelier, so that the mean stays what it was.

    Rounded to the nearest, most of what a short training learnt is lost: it moves a weight by less than half the
    distance to the next bf16 number. What is such a number stays as it is. Beside the result it holds a few bytes for
    each of `_AT_ONCE` numbers, however large the weight.
    """
    found = torch.empty_like(weight, dtype=torch.bfloat16, memory_format=torch.contiguous_format)
    for part, into in zip(weight.reshape(-1).split(_AT_ONCE), found.view(-1).split(_AT_ONCE), strict=True):
        bits = part.float().view(torch.int32)
        below = torch.randint(1 << 16, bits.shape, generator=chance, dtype=torch.int32, device=bits.device)
        into.copy_(((bits + below) & ~0xFFFF).view(torch.float32))
    return found


def release() -> None:
    """Give the memory of models that nobody holds back, a shared GPU's above all."""
    gc.collect()
    torch.cuda.empty_cache()
