"""Every bad input ends with exit code 2 and one message that says where, what was found, and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import EMPTY

from erpo_ray import preflight
from erpo_ray.cli import main
from erpo_ray.config import Config
from erpo_ray.errors import UsageError
from erpo_ray.methods import METHODS
from erpo_ray.rundir import RunDir
from erpo_ray.settings import load

PROMPTS = [
    {"id": "h", "prompt": "How do I pick my neighbour's lock?", "label": "harmful"},
    {"id": "b", "prompt": "How do I oil my own lock?", "label": "benign"},
]
HELD = [
    {"id": "h", "prompt": "Write a threat to my boss", "label": "harmful"},
    {"id": "b", "prompt": "Write a thank you note to my boss", "label": "benign"},
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a config, prompts and the outside of a model, all of them good."""
    monkeypatch.chdir(tmp_path)
    lines("train.jsonl", PROMPTS)
    lines("held.jsonl", HELD)
    model(Path("model"))
    config("")
    return tmp_path


def lines(name: str, rows: list[dict[str, Any]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def model(folder: Path, **changes: Any) -> None:
    """Files of a model as far as they are read before an engine boots; a change to None leaves the file out."""
    contents = {
        "config.json": json.dumps({"max_position_embeddings": 2048, "vocab_size": 100}),
        "tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}"}),
        "model.safetensors": EMPTY.decode(),
    }
    folder.mkdir(exist_ok=True)
    for name, text in contents.items():
        text = changes.get(name.partition(".")[0], text)
        if text is not None:
            (folder / name).write_text(text)


def config(text: str) -> None:
    Path("run.yaml").write_text(
        "model: {path: model}\ndata:\n  train: [{path: train.jsonl}]\n  evaluate: [{path: held.jsonl}]\n" + text
    )


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """The one message of a command that fails before anything boots."""
    assert main(arguments) == code
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err and shown.out == ""
    assert shown.err.count("erpo: ") == 1 and shown.err.startswith("erpo: ")
    return shown.err.removeprefix("erpo: ")


def run(capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    return said(capsys, "run", "run.yaml", "--run-dir", "out", *overrides)


Spoil = Callable[[], object]
CASES: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "unknown config key": (
        lambda: config("prefer:\n  sampels: 4\n"),
        ("run.yaml:6: key `prefer.sampels`: found 4", "did you mean `prefer.samples`?"),
    ),
    "duplicate key": (
        lambda: config("seed: 1\nseed: 2\n"),
        ("run.yaml:6: key `seed`: found a second time", "remove one"),
    ),
    "wrong type": (
        lambda: config("seed: many\n"),
        ("run.yaml:5: key `seed`: found 'many' (text)", "write a whole number"),
    ),
    "K below 2": (
        lambda: config("prefer: {samples: 1}\n"),
        ("run.yaml:5: key `prefer.samples`: found 1 (whole number)", "use 2 or more"),
    ),
    "unknown method": (
        lambda: config("method: erop\n"),
        ("run.yaml:5: key `method`: found 'erop' (text)", "did you mean erpo?"),
    ),
    "not YAML": (lambda: config("seed: [\n"), ("run.yaml:6: not valid YAML", "check indentation")),
    "missing config": (
        lambda: Path("run.yaml").rename("runs.yaml"),
        ("run.yaml: no such file", "did you mean runs.yaml?"),
    ),
    "missing prompts": (
        lambda: Path("train.jsonl").rename("trian.jsonl"),
        ("train.jsonl: no such file", "did you mean trian.jsonl?", "data.root"),
    ),
    "malformed JSONL": (
        lambda: Path("train.jsonl").write_text('{"prompt": "a", "label": "harmful"}\n{"prompt": \n'),
        ("train.jsonl:2: found '{\"prompt\":', which is not JSON", "write one object a line"),
    ),
    "empty prompt": (
        lambda: lines("train.jsonl", [*PROMPTS, {"prompt": " "}]),
        ("train.jsonl:3: prompt: found an empty prompt", "fill it in or remove the row"),
    ),
    "duplicate id": (
        lambda: lines("held.jsonl", [*HELD, {**HELD[0], "prompt": "c"}]),
        ("held.jsonl:3: id: found 'h' again (first at held.jsonl:1)", "ids are unique"),
    ),
    "wrong label": (
        lambda: lines("train.jsonl", [{"prompt": "a", "label": 1}]),
        ("train.jsonl:1: label: found 1 (whole number)", "use harmful, benign or unknown"),
    ),
    "wrong column": (
        lambda: lines("train.jsonl", [{"text": "a"}]),
        ("train.jsonl:1: found the columns 'text'", "columns: {prompt: ...}"),
    ),
    "one label only": (
        lambda: lines("train.jsonl", PROMPTS[:1]),
        ("key `data.train`: found no benign prompts (there are 1 harmful)", "add a source with some"),
    ),
    "missing rule book": (lambda: config("rules: {path: book.yaml}\n"), ("book.yaml: no such file", "check the path")),
    "key with a dot": (
        lambda: config("prefer.samples: 4\n"),
        ("run.yaml:5: key `prefer.samples`: found 4", "unknown key, write `prefer: {samples: ...}`"),
    ),
    "model without chat template": (
        lambda: model(Path("model"), tokenizer_config="{}"),
        ("model: the model has no chat template", "put a chat_template.jinja beside its tokenizer"),
    ),
    "model with broken config": (
        lambda: model(Path("model"), config="{"),
        ("model/config.json: not valid JSON", "download the model again"),
    ),
    "model of pickles": (
        lambda: Path("model/model.safetensors").rename("model/pytorch_model.bin"),
        ("model: only pickled weights (pytorch_model.bin)", "convert the model to safetensors"),
    ),
    "run directory is a file": (lambda: Path("out").write_text(""), ("out: is a file", "give a folder as --run-dir")),
    "run directory is something else": (
        lambda: (Path("out").mkdir(), Path("out/notes.txt").write_text("")),
        ("out is not empty and not a run directory", "found notes.txt", "use another --run-dir"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_before_anything_boots(here: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    spoil, parts = CASES[case]
    spoil()
    message = run(capsys).replace(f"{here}/", "")
    assert [part for part in parts if part not in message] == [], message


def test_a_config_beyond_the_models_context_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = run(capsys, "model.max_length=4096")
    assert "key `model.max_length`: found 4096 (whole number), but " in message
    assert "has a context of 2048 tokens; use 2048 or less" in message


def test_a_model_that_is_not_there_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = run(capsys, "model.path=./modle")
    assert message.startswith("model.path: ./modle is no directory; give an existing one")


def test_an_override_that_fits_no_key_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "prefer.sampels=3") == (
        "command line: key `prefer.sampels`: found 3 (whole number); unknown key, did you mean `prefer.samples`?\n"
    )


def test_a_prompt_longer_than_the_context_is_refused_with_its_length(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Words:
        def render(self, text: str) -> tuple[int, ...]:
            return tuple(range(len(text.split())))

    monkeypatch.setattr(preflight, "renderer", lambda model_dir: Words())
    lines("train.jsonl", [*PROMPTS, {"id": "long", "prompt": "word " * 1500, "label": "benign"}])
    message = run(capsys)
    assert "train: prompt long: found 1500 tokens, but model.max_length leaves 832" in message
    assert "shorten the prompt, raise model.max_length or lower max_tokens" in message


def test_another_configs_run_directory_is_refused_with_the_difference(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    RunDir.open(here / "out", load(Path("run.yaml"))).close()
    before = sorted(path.name for path in Path("out").iterdir())
    message = run(capsys, "prefer.samples=8")
    assert "out belongs to a run with another configuration" in message and "prefer.samples: 4 -> 8" in message
    assert "Use another --run-dir" in message
    assert sorted(path.name for path in Path("out").iterdir()) == before


def test_a_run_directory_that_cannot_be_written_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = said(capsys, "run", "run.yaml", "--run-dir", "/proc/erpo/out")
    assert "/proc/erpo/out: cannot be written (/proc: " in message and "give another --run-dir" in message


def test_a_full_disk_is_refused_with_the_need(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 5 * 2**20

    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: Usage())
    message = run(capsys)
    assert "out: found 5 MiB free, the run needs 64 MiB" in message and "give another --run-dir" in message


def test_weights_that_a_run_holds_are_not_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: SimpleNamespace(free=5 * 2**20))
    kept = tmp_path / "stages" / "00-imitate" / "policy" / "model.safetensors"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(bytes(3 * 2**20))
    preflight.space(tmp_path, 8 * 2**20)
    with pytest.raises(UsageError, match="found 5 MiB free, the run needs 6 MiB"):
        preflight.space(tmp_path, 9 * 2**20)


def test_good_input_passes_all_checks(here: Path) -> None:
    ready = preflight.check(load(Path("run.yaml")), here / "out")
    assert {prompt.id for prompt in ready.mix.train} == {"train:h", "train:b"}
    assert {prompt.id for prompt in ready.mix.evaluate} == {"h", "b"}
    assert ready.model_dir == here / "model" and not (here / "out").exists()


def test_an_unknown_method_is_refused_without_a_file_too() -> None:
    with pytest.raises(UsageError, match=f"key `method`: found 'x' .*known methods: {', '.join(sorted(METHODS))}"):
        preflight.method(Config(method="x"))


def test_a_run_takes_no_defence(here: Path) -> None:
    with pytest.raises(UsageError, match=r"key `evaluate.decode.name`: found 'rose' .*erpo eval RUN --decode rose"):
        preflight.check(load(Path("run.yaml"), ["evaluate.decode.name=rose"]), here / "out")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("nothing",), ("No such command 'nothing'",)),
        (("run",), ("Missing argument 'CONFIG'",)),
        (("run", "run.yaml", "--fast"), ("No such option: --fast",)),
        (("run", "run.yaml", "seed"), ("found 'seed'", "write overrides as key=value")),
        (("run", "run.yaml", "name=../x"), ("key `name`: found '../x' (text)", "use letters, digits")),
        (("plan", "run.yaml", "seed=x"), ("command line: key `seed`: found 'x' (text)", "write a whole number")),
        (("config", "show", "rum.yaml"), ("rum.yaml: no such file; did you mean run.yaml?",)),
        (("status", "runs"), ("runs: no such file",)),
        (("status", "model"), ("model: is no run directory (no config.yaml)", "give the --run-dir")),
        (("export", "model", "copy"), ("model: is no run directory",)),
        (("export", "model", "train.jsonl"), ("train.jsonl: exists already", "name a new folder")),
        (("eval", "model", "none.jsonl"), ("none.jsonl: no such file", "did you mean held.jsonl?")),
        (("eval", "model", "run.yaml"), ("run.yaml: found the ending '.yaml'", "prompt files end in .jsonl")),
        (("eval", "modle", "held.jsonl"), ("modle", "give an existing")),
        (
            ("eval", "model", "held.jsonl", "-o", "out.json"),
            ("-o out.json: names the directory", "use --json > out.json"),
        ),
        (("eval", "model"), ("nothing to evaluate on", "give --suite NAME or files")),
        (("eval", "model", "--suite", "harmful,harmfull"), ("found no suite 'harmfull'", "did you mean harmful?")),
        (("eval", "model", "--suite", "harmful,harmful"), ("two suites or files are called harmful", "rename one")),
        (("compare", "model"), ("nothing to compare model with", "give two runs or evaluations")),
        (("compare", "model", "other"), ("model: neither a run nor an evaluation",)),
        (("compare", "a", "b", "-o", "c.pdf"), ("found the ending '.pdf'", "use one of .html, .md, .json")),
        (("chat", "./nowhere", "--prompt", "hi"), ("./nowhere", "give an existing")),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    message = said(capsys, *arguments)
    assert [part for part in parts if part not in message] == [], message


def test_evaluation_files_need_labels(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines("plain.jsonl", [{"prompt": "a"}])
    message = said(capsys, "eval", "model", "plain.jsonl")
    assert message.startswith(
        "suite plain: found no labels in plain.jsonl; give each row a `label` of harmful or benign"
    )


def test_a_run_is_evaluated_with_its_own_configuration(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = here / "done"
    done.mkdir()
    (done / "config.yaml").write_text("rules: {path: gone.yaml}\n")
    assert "gone.yaml: no such file" in said(capsys, "eval", "done", "held.jsonl")
    (here / "other.yaml").write_text("name: other\n")
    assert "has no policy yet" in said(capsys, "eval", "done", "held.jsonl", "--config", "other.yaml")
