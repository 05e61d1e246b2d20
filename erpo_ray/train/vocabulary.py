"""A model that is given new tokens: a copy with a larger vocabulary, made before anything is trained or served."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import AutoTokenizer

from erpo_ray.train import models
from erpo_ray.train.weights import dress


def extend(source: Path, tokens: Sequence[str], out: Path) -> None:
    """Write the model in `source` with further `tokens` into `out`: bf16 safetensors, tokenizer, chat template.

    A new token begins as the mean of the tokens that its text was written in so far, in the input embeddings and, where
    that is a matrix of its own, in the output layer; the copy depends on its source alone. All other weights are the
    source's in bf16. The tokens are not special: they are text of the completion, and decoding keeps them. One that the
    source has already stays as it is.
    """
    tokenizer: Any = AutoTokenizer.from_pretrained(source)
    known = tokenizer.get_vocab()
    written = {token: tokenizer(token, add_special_tokens=False)["input_ids"] for token in tokens if token not in known}
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in written])
    model: Any = models.load(source, torch.bfloat16)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    matrices = {id(part.weight): part.weight for part in (model.get_input_embeddings(), model.get_output_embeddings())}
    with torch.no_grad():
        for matrix in matrices.values():
            for token, pieces in written.items():
                matrix[tokenizer.convert_tokens_to_ids(token)] = matrix[pieces].float().mean(0)
    rows = model.get_input_embeddings().weight.shape[0]
    model.save_pretrained(out)
    dress(out, source, "bfloat16")
    tokenizer.save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"vocab_size": rows}, indent=2, sort_keys=True) + "\n")
