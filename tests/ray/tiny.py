"""A chat model of a few thousand weights, made on the spot: real transformers classes, no download."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from erpo_ray.types import Advantage, Example, Pair

VOCABULARY = 96
TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}\n"


def policy(path: Path, seed: int = 0, tied: bool = True) -> Path:
    """Write a two-layer Llama in bf16 with a tokenizer and a chat template; weights depend on `seed`."""
    return _write(path, LlamaForCausalLM, seed, tie_word_embeddings=tied)


def reward(path: Path, seed: int = 0, labels: int = 1) -> Path:
    """The same as a sequence classifier with this many outputs."""
    return _write(path, LlamaForSequenceClassification, seed, num_labels=labels)


def speaker(path: Path, source: Path, seed: int = 0) -> Path:
    """A random Llama of three million weights with the tokenizer and the chat template of `source`: vLLM serves it."""
    torch.manual_seed(seed)
    known = AutoConfig.from_pretrained(source)
    config = LlamaConfig(
        vocab_size=known.vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        initializer_range=0.1,
        bos_token_id=known.bos_token_id,
        eos_token_id=known.eos_token_id,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    for file in source.iterdir():
        if file.suffix in (".json", ".jinja", ".txt") and not (path / file.name).exists() and "index" not in file.name:
            shutil.copyfile(file, path / file.name)
    return path


def _write(path: Path, kind: Any, seed: int, **more: Any) -> Path:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        **more,
    )
    kind(config).bfloat16().save_pretrained(path)
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", bos_token="w1", eos_token="w2")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(path)
    return path


def _ids(rng: random.Random, low: int, high: int) -> tuple[int, ...]:
    return tuple(rng.randrange(3, VOCABULARY) for _ in range(rng.randrange(low, high)))


def examples(count: int, seed: int = 0) -> list[Example]:
    rng = random.Random(seed)
    return [Example(f"e{i}", f"p{i}", "x", _ids(rng, 2, 9), (*_ids(rng, 1, 14), 2), "") for i in range(count)]


def pairs(count: int, seed: int = 0) -> list[Pair]:
    rng = random.Random(seed)
    return [
        Pair(f"a{i}", f"p{i}", _ids(rng, 2, 9), (7,), (*_ids(rng, 1, 9), 2), (*_ids(rng, 4, 14), 2), 1.0, "safety", "")
        for i in range(count)
    ]


def advantages(groups: int, samples: int = 3, seed: int = 0) -> list[Advantage]:
    """Groups of completions of one prompt each: the first is better than the others, by an advantage of 1 to -1/2."""
    rng = random.Random(seed)
    rows = []
    for at in range(groups):
        prompt = _ids(rng, 2, 9)
        for k in range(samples):
            worth = 1.0 if k == 0 else -1.0 / (samples - 1)
            rows.append(
                Advantage(f"v{at}.{k}", f"p{at}", prompt, (7,), (*_ids(rng, 2, 12), 2), worth, worth, "passes", "")
            )
    return rows
