"""Folders that are no run: what is said of each, and that every command that wants a run says it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from erpo_ray.cli import main
from erpo_ray.config import Config
from erpo_ray.rundir.fingerprint import fingerprint
from erpo_ray.rundir.kind import Kind, kind_of


def made(folder: Path, kind: str) -> Path:
    place = folder / kind
    if kind == "file":
        place.write_text("")
        return place
    place.mkdir()
    inputs = {"evaluation": {"policy": "p", "rules": "r"}, "search": {"cases": "c"}, "run": {"train": "t"}}
    if kind in (*inputs, "sweep"):
        (place / "config.yaml").write_text("name: x\n")
        told = fingerprint(Config(), inputs.get(kind, {}))
        (place / "fingerprint.json").write_bytes(msgspec.json.encode(told))
    names = {"model": "config.json", "pairs": "01-prefer.parquet", "logs": "base-evaluation.eval", "other": "notes.txt"}
    if kind in names:
        (place / names[kind]).write_text("")
    if kind == "sweep":
        (place / "rows").mkdir()
    return place


SAID = {
    "sweep": "is a sweep; its rows are runs, each in {}/rows/NAME",
    "evaluation": "is an evaluation (erpo eval); erpo compare takes it",
    "search": "is a search for guidance (erpo tune)",
    "model": "is a model directory; erpo chat, serve, eval and doctor take it",
    "pairs": "holds Parquet files",
    "logs": "holds Inspect logs",
    "empty": "is an empty folder; erpo run CONFIG --run-dir {} begins a run there",
    "file": "is a file; name the --run-dir",
    "other": "is no run directory",
}


@pytest.mark.parametrize("kind", [*SAID, "run"])
def test_a_folder_is_told_by_what_is_in_it(tmp_path: Path, kind: Kind) -> None:
    assert kind_of(made(tmp_path, kind)) == kind


@pytest.mark.parametrize("kind", SAID)
def test_what_is_no_run_is_said_by_every_command_that_wants_one(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = made(tmp_path, kind)
    commands = [["report", str(place)], ["export", str(place), str(tmp_path / "new")]]
    if kind not in ("sweep", "evaluation", "search"):
        commands += [["status", str(place)], ["tail", str(place)]]
    if kind not in ("model", "other"):
        commands += [["chat", str(place), "--prompt", "hi"], ["serve", str(place)]]
    if kind != "evaluation":
        commands.append(["compare", str(place), str(place)])
    for words in commands:
        assert main(words) == 2, words
        shown = capsys.readouterr().err
        assert shown.startswith(f"erpo: {place}: {SAID[kind].format(place)}") and shown.count("\n") == 1


@pytest.mark.parametrize("kind", ["run", "sweep", "search"])
def test_an_evaluation_is_not_put_into_what_is_something_else(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("erpo_ray.commands.evaluate.model_of", Path)
    monkeypatch.setattr("erpo_ray.preflight.model", lambda config: Path(config.model.path))
    place = made(tmp_path, kind)
    assert main(["eval", "model", "--suite", "everyday", "-o", str(place)]) == 2
    assert "name another directory with -o" in capsys.readouterr().err
