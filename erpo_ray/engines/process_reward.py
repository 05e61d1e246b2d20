"""The process reward model of one policy: its hidden states, the head on them, and the head's file."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as pack

from erpo_ray import environment
from erpo_ray.errors import UsageError
from erpo_ray.evaluate.values import Head, Ids, Valued, regress
from erpo_ray.rundir.files import Files

_FORMAT = "erpo-process-reward-1"
_ARRAYS = ("weights", "mean", "scale")
_BATCH = 16


class ProcessReward:
    """V of a prompt with the steps behind it. Holds the policy's weights, beside an engine's own."""

    def __init__(self, model_dir: Path, head: Head, gpu: bool) -> None:
        self._model, self._head = _load(model_dir, gpu), head

    def __call__(self, rows: Sequence[Ids]) -> list[float]:
        """One value for each row of ids."""
        return self._head(states(self._model, rows)).tolist()


def train(model_dir: Path, version: str, rows: Sequence[Valued], path: Path, gpu: bool) -> Head:
    """Learn the head of a policy from nodes, and write it to `path` (safetensors), whole or not at all."""
    head = regress(states(_load(model_dir, gpu), [row.ids for row in rows]), rows)
    _leave()
    facts = {"bias": head.bias, "correlation": head.correlation, "nodes": head.nodes}
    metadata = {"format": _FORMAT, "model": version} | {name: repr(value) for name, value in facts.items()}
    files = Files()
    files.ensure(path.parent)
    files.put(path, pack({name: getattr(head, name) for name in _ARRAYS}, metadata=metadata))
    return head


def load(path: Path, version: str) -> Head:
    """The head in a file. UsageError when the file is another kind or belongs to other weights than `version`."""
    remedy = "remove the file or name another in evaluate.decode.search.head, and the head is learnt anew"
    try:
        with safe_open(path, framework="numpy") as file:
            facts = file.metadata() or {}
            if (facts.get("format"), facts.get("model")) != (_FORMAT, version):
                raise UsageError(f"{path}: holds no process reward model of the policy {version}; {remedy}")
            weights, mean, scale = (file.get_tensor(name) for name in _ARRAYS)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path}: cannot be read as safetensors ({error}); {remedy}") from error
    return Head(weights, mean, scale, float(facts["bias"]), float(facts["correlation"]), int(facts["nodes"]))


def states(model: Any, rows: Sequence[Ids]) -> np.ndarray:
    """The last hidden state at the last token of each row, float32, (rows, width)."""
    import torch

    found = np.empty((len(rows), model.config.get_text_config().hidden_size), dtype=np.float32)
    by_length = sorted(range(len(rows)), key=lambda at: len(rows[at]))
    with torch.inference_mode():
        for start in range(0, len(rows), _BATCH):
            chosen = by_length[start : start + _BATCH]
            ends = torch.tensor([len(rows[at]) - 1 for at in chosen])
            ids = torch.zeros((len(chosen), int(ends.max()) + 1), dtype=torch.long)
            for at, number in enumerate(chosen):
                ids[at, : len(rows[number])] = torch.tensor(rows[number])
            mask = (torch.arange(ids.shape[1]) <= ends[:, None]).long()
            inputs = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
            hidden = model.get_decoder()(**inputs, use_cache=False).last_hidden_state
            found[chosen] = hidden[torch.arange(len(chosen)), ends].float().cpu().numpy()
    return found


def _leave() -> None:
    """Give the GPU back: an engine that starts next, in another process, wants most of it."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


def _load(model_dir: Path, gpu: bool) -> Any:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    dtype = torch.bfloat16 if environment.bf16(gpu) else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(str(model_dir), dtype=dtype, use_safetensors=True)
    return model.to("cuda" if gpu else "cpu").eval()
