"""Checkpoints that are whole, and model directories: no torch."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from erpo_ray.errors import UsageError
from erpo_ray.train.checkpoints import MARKER, latest, seal
from erpo_ray.train.weights import dress, version


def checkpoint(work: Path, step: int) -> Path:
    path = work / f"checkpoint-{step}"
    (path / "shards").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"x" * 100 * step)
    (path / "shards/optimizer.bin").write_bytes(bytes(range(100)) * step)
    (path / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
    return path


def test_the_furthest_whole_checkpoint_is_chosen_and_the_one_before_it_kept(tmp_path: Path) -> None:
    seal(checkpoint(tmp_path, 8), "f")
    seal(checkpoint(tmp_path, 9), "f")
    later, said = checkpoint(tmp_path, 10), list[str]()
    assert latest(tmp_path, "f", said.append) == tmp_path / "checkpoint-9"
    assert said == [f"{later} is passed over: it has no marker that can be read, so it was not finished"]
    checkpoint(tmp_path, 11)
    seal(later, "f")
    assert latest(tmp_path, "f") == later
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]


def test_one_of_other_rows_is_not_kept_as_the_one_before(tmp_path: Path) -> None:
    seal(checkpoint(tmp_path, 8), "f")
    seal(checkpoint(tmp_path, 9), "g")
    checkpoint(tmp_path, 10)
    seal(checkpoint(tmp_path, 11), "f")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-11"]


RNG = random.Random(0)


def flip(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[RNG.randrange(len(whole))] ^= 1 << RNG.randrange(8)
    path.write_bytes(whole)


def cut(path: Path) -> None:
    os.truncate(path, RNG.randrange(path.stat().st_size))


def double(path: Path) -> None:
    path.write_bytes(path.read_bytes() * 2)


SIZE = "bytes, and was saved with"
DAMAGES = ((flip, "has another sha256"), (cut, SIZE), (double, SIZE), (Path.unlink, "is missing"))
"""Each damage of a file, and what is said of it."""
FILES = ("model.safetensors", "shards/optimizer.bin", "trainer_state.json", MARKER)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(tmp_path: Path) -> None:
    """As a crash or a disk may spoil a file after it was sealed: ten times each damage of each file."""
    seal(checkpoint(tmp_path, 4), "f")
    seal(last := checkpoint(tmp_path, 6), "f")
    shutil.copytree(last, whole := tmp_path / "whole")
    tried = chosen = told = 0
    for name, (spoil, why), _ in itertools.product(FILES, DAMAGES, range(10)):
        shutil.rmtree(last)
        shutil.copytree(whole, last)
        spoil(last / name)
        said: list[str] = []
        chosen += latest(tmp_path, "f", said.append) != tmp_path / "checkpoint-4"
        # A marker that spells another run is passed over as a stranger's, without a word.
        told += name == MARKER or (len(said) == 1 and f"{last} is passed over: {name} " in said[0] and why in said[0])
        tried += 1
    assert (tried, chosen, told) == (160, 0, 160)


def test_a_checkpoint_that_was_half_written_over_is_passed_over(tmp_path: Path) -> None:
    """A crash while a checkpoint is saved once more: the marker of the first is still there."""
    seal(checkpoint(tmp_path, 2), "f")
    seal(checkpoint(tmp_path, 4), "f")
    (tmp_path / "checkpoint-4/model.safetensors").write_bytes(b"y" * 400)
    assert latest(tmp_path, "f") == tmp_path / "checkpoint-2"
    seal(tmp_path / "checkpoint-4", "f")
    assert latest(tmp_path, "f") == tmp_path / "checkpoint-4"


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
