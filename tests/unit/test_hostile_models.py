"""Model directories made to run code or to lead astray: each is refused, and no payload fires."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import EMPTY

from erpo_ray.engines import models, vetting
from erpo_ray.errors import UsageError


class Payload:
    """Touches the canary when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def code(folder: Path, name: str) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"from pathlib import Path\nPath({str(folder.parent / 'canary')!r}).touch()\n")


def pickled(folder: Path, name: str) -> None:
    (folder / name).write_bytes(pickle.dumps(Payload(folder.parent / "canary")))


def wrote(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(json.dumps(value))


def index(folder: Path, *names: str) -> None:
    (folder / vetting.WEIGHTS).unlink()
    wrote(folder, vetting.INDEX, {"weight_map": {f"tensor {n}": name for n, name in enumerate(names)}})


def without_weights(folder: Path, name: str) -> None:
    (folder / vetting.WEIGHTS).unlink()
    pickled(folder, name)


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickled weights": (lambda f: without_weights(f, "pytorch_model.bin"), "only pickled weights"),
    "a checkpoint": (lambda f: without_weights(f, "model.ckpt"), "only pickled weights"),
    "pickled weights beside an odd safetensors": (
        lambda f: ((f / vetting.WEIGHTS).rename(f / "other.safetensors"), pickled(f, "pytorch_model.bin")),
        "only pickled weights",
    ),
    "a pickled adapter": (
        lambda f: (pickled(f, "adapter_model.bin"), wrote(f, "adapter_config.json", {"peft_type": "LORA"})),
        "makes it an adapter",
    ),
    "auto_map": (
        lambda f: (code(f, "modeling_x.py"), wrote(f, "config.json", {"auto_map": {"AutoModel": "modeling_x.X"}})),
        "auto_map makes the model run code",
    ),
    "auto_map of a model within": (
        lambda f: wrote(f, "config.json", {"text_config": [{"auto_map": {"AutoConfig": "x.X"}}]}),
        "auto_map makes the model run code",
    ),
    "auto_map of the tokenizer": (
        lambda f: wrote(f, "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["x.X", None]}}),
        "auto_map makes the model run code",
    ),
    "auto_map of the processor": (
        lambda f: wrote(f, "processor_config.json", {"auto_map": {"AutoProcessor": "x.X"}}),
        "auto_map makes the model run code",
    ),
    "custom_generate": (lambda f: code(f, "custom_generate/generate.py"), "custom_generate is code"),
    "an index that leads out": (lambda f: index(f, "../pytorch_model.bin"), "names '../pytorch_model.bin'"),
    "an index of pickles": (
        lambda f: (index(f, "pytorch_model.bin"), pickled(f, "pytorch_model.bin")),
        "names 'pytorch_model.bin'",
    ),
    "an absolute index": (lambda f: index(f, "/etc/passwd"), "names '/etc/passwd'"),
    "a header without end": (
        lambda f: (f / vetting.WEIGHTS).write_bytes((1 << 62).to_bytes(8, "little") + b"{}"),
        "not a whole safetensors file",
    ),
    "weights that are a pickle": (lambda f: pickled(f, vetting.WEIGHTS), "not a whole safetensors file"),
    "deep JSON": (lambda f: (f / "config.json").write_text('{"a":' * 100_000), "not valid JSON"),
    "a list for a configuration": (lambda f: wrote(f, "config.json", []), "found a list, not an object"),
    "a huge configuration": (
        lambda f: (f / "config.json").write_bytes(b" " * (vetting.MAX_JSON + 1)),
        "bytes of JSON, more than",
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound model directory as far as it is looked at, with the pickles of a trainer, which nothing reads."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / vetting.WEIGHTS).write_bytes(EMPTY)
    wrote(folder, "config.json", {"model_type": "llama"})
    wrote(folder, "tokenizer_config.json", {})
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth", "scheduler.pt"):
        pickled(folder, name)
    return folder


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_model_is_refused_and_nothing_of_it_runs(folder: Path, name: str) -> None:
    make, told = HOSTILE[name]
    make(folder)
    with pytest.raises(UsageError, match=told) as refused:
        models.materialise(folder)
    assert str(folder) in str(refused.value)
    assert not (folder.parent / "canary").exists()


def test_a_sound_model_passes_and_the_pickles_beside_it_are_not_read(folder: Path) -> None:
    assert models.materialise(folder) == folder
    index(folder, "model-1.safetensors", "model-2.safetensors")
    for number in (1, 2):
        (folder / f"model-{number}.safetensors").write_bytes(EMPTY)
    assert models.materialise(folder) == folder
    assert not (folder.parent / "canary").exists()


def test_a_payload_would_fire(folder: Path) -> None:
    pickle.loads((folder / "training_args.bin").read_bytes())
    assert (folder.parent / "canary").exists()
