"""Checkpoints that are whole, and model directories: no torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from erpo_ray.errors import UsageError
from erpo_ray.train.checkpoints import MARKER, latest, seal
from erpo_ray.train.weights import dress, version


def checkpoint(work: Path, step: int) -> Path:
    path = work / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"x" * step)
    return path


def test_the_furthest_whole_checkpoint_is_chosen(tmp_path: Path) -> None:
    seal(checkpoint(tmp_path, 9), "f")
    later = checkpoint(tmp_path, 10)
    assert latest(tmp_path, "f") == tmp_path / "checkpoint-9"
    seal(later, "f")
    assert latest(tmp_path, "f") == later
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]


def test_a_half_written_one_is_never_chosen(tmp_path: Path) -> None:
    half = checkpoint(tmp_path, 5)
    (half / f"{MARKER}.draft").write_text('{"fingerprint": "f"}')
    assert latest(tmp_path, "f") is None


def test_one_of_another_run_is_never_chosen(tmp_path: Path) -> None:
    seal(checkpoint(tmp_path, 5), "f")
    assert latest(tmp_path, "g") is None


def test_no_folder_holds_no_checkpoint(tmp_path: Path) -> None:
    assert latest(None, "f") is None
    assert latest(tmp_path / "absent", "f") is None


def test_the_version_follows_the_weights_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "b" / "config.json").write_text("{}")
    assert version(tmp_path / "a") == version(tmp_path / "b")
    assert len(version(tmp_path / "a")) == 16
    (tmp_path / "b" / "model.safetensors").write_bytes(b"weightt")
    assert version(tmp_path / "a") != version(tmp_path / "b")


def test_a_directory_without_safetensors_has_no_version(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no \*\.safetensors file"):
        version(tmp_path)


def test_dressing_keeps_everything_but_weights_and_card(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    files = {
        "tokenizer.json": "{}",
        "chat_template.jinja": "{{ messages }}\n",
        "generation_config.json": '{"eos_token_id": 2}',
        "config.json": '{"torch_dtype": "float16", "pad_token_id": 7}',
        "model.safetensors": "old",
        "model.safetensors.index.json": "old",
        "README.md": "card",
    }
    for name, text in files.items():
        (source / name).write_text(text)
    (out / "model.safetensors").write_text("new")
    (out / "config.json").write_text('{"pad_token_id": 99}')
    dress(out, source, "bfloat16")
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (out / name).read_text() == files[name]
    assert json.loads((out / "config.json").read_text()) == {"pad_token_id": 7, "dtype": "bfloat16"}
    assert (out / "model.safetensors").read_text() == "new"
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
    )
