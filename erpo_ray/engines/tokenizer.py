"""A model directory's tokenizer, as transformers loads it, without what its way there imports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erpo_ray.engines.vetting import read_json

_CONFIG, _WHOLE = "tokenizer_config.json", "tokenizer.json"
_PLAIN = "TokenizersBackend"
"""The class of a tokenizer that is its tokenizer.json and nothing else, as transformers 5 saves them."""


def load(model_dir: Path | str) -> Any:
    """What `AutoTokenizer` gives for a directory, whose import takes four seconds: it brings torch and scikit-learn.

    A directory that names the plain class needs no search for one, and no more than that class is imported.
    """
    folder = Path(model_dir)
    file = folder / _CONFIG
    if (folder / _WHOLE).is_file() and file.is_file() and read_json(file).get("tokenizer_class") == _PLAIN:
        from transformers import TokenizersBackend

        return TokenizersBackend.from_pretrained(str(folder))
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))
