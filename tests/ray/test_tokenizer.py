"""The tokenizer of a directory, against the one that AutoTokenizer finds there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from erpo_ray.engines import tokenizer

TEXTS = (
    "How does a lock work?",
    " leading,  double  and trailing ",
    "<|im_start|>user\nsaid <|im_end|>",
    "naïve 東京 🙂 \u200b\x00",
    "1234567890 1e-5\n\n\t",
)


@pytest.mark.parametrize("named", ["TokenizersBackend", "PreTrainedTokenizerFast", "GPT2Tokenizer", None])
def test_it_is_the_one_that_transformers_finds(smol: Path, tmp_path: Path, named: str | None) -> None:
    folder = shutil.copytree(smol, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text()) | {"tokenizer_class": named}
    file.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))

    mine, theirs = tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)

    assert type(mine) is type(theirs)
    assert mine.special_tokens_map == theirs.special_tokens_map
    assert mine.added_tokens_decoder == theirs.added_tokens_decoder
    for plain in (False, True):
        ask = {"add_special_tokens": False, "split_special_tokens": plain}
        assert mine(list(TEXTS), **ask)["input_ids"] == theirs(list(TEXTS), **ask)["input_ids"]


def test_a_prompt_of_a_saved_model_is_rendered_without_torch(smol: Path) -> None:
    script = (
        "import sys\n"
        "from erpo_ray.engines.renderer import Renderer\n"
        f"ids = Renderer({str(smol)!r}).render('How does a lock work?')\n"
        "print(len(ids), 'torch' in sys.modules)\n"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    tokens, torch_is_there = said.split()
    assert int(tokens) > 10
    assert torch_is_there == "False"
