"""Every bad input ends with exit code 2 and one message that says where, what was found, and what to do."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from bad_inputs import HELD, PROMPTS, Bad, config, lines, model
from bad_places import CLUSTERS, ENVIRONMENTS, JUDGES, MODELS, RUN_DIRS
from bad_texts import BOOKS, CONFIG, FILES_OF_PROMPTS, LINES
from tokenizers import Tokenizer, models, pre_tokenizers

from erpo_ray import preflight
from erpo_ray.cli import main
from erpo_ray.config import Config
from erpo_ray.engines import templates
from erpo_ray.errors import UsageError
from erpo_ray.methods import METHODS
from erpo_ray.settings import load
from erpo_ray.types import Prompt

BAD = {
    "config": (14, CONFIG),
    "command line": (8, LINES),
    "prompts file": (14, FILES_OF_PROMPTS),
    "rule book": (10, BOOKS),
    "model directory": (14, MODELS),
    "run directory": (12, RUN_DIRS),
    "judge": (8, JUDGES),
    "cluster": (6, CLUSTERS),
    "environment": (4, ENVIRONMENTS),
}
"""By what is wrong: how many there are to be, and those there are."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a config, prompts and the outside of a model, all of them good."""
    monkeypatch.chdir(tmp_path)
    lines("train.jsonl", PROMPTS)
    lines("held.jsonl", HELD)
    model(Path("model"))
    config("")
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """The one message of a command that fails before anything boots."""
    assert main(arguments) == code
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err and shown.out == ""
    assert shown.err.count("erpo: ") == 1 and shown.err.startswith("erpo: ")
    return shown.err.removeprefix("erpo: ")


def run(capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    return said(capsys, "run", "run.yaml", "--run-dir", "out", *overrides)


def standing(folder: Path) -> dict[str, bytes]:
    """All files but those of the lease, which tells of every start."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if "lease" not in name}


def test_there_are_ninety_kinds_of_bad_input() -> None:
    assert {kind: wanted for kind, (wanted, cases) in BAD.items() if len(cases) < wanted} == {}
    assert sum(wanted for wanted, _ in BAD.values()) == 90


@pytest.mark.parametrize(
    "bad",
    [pytest.param(bad, id=f"{kind}: {name}") for kind, (_, cases) in BAD.items() for name, bad in cases.items()],
)
def test_bad_input_is_refused_before_anything_boots(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, bad: Bad
) -> None:
    """In time, in one message that names place, finding and remedy; what stood there stands there, and nothing else."""
    bad.spoil(monkeypatch)
    before, begun = standing(here), time.process_time()
    message = said(capsys, *bad.words, code=bad.code).replace(f"{here}/", "")
    assert time.process_time() - begun < 10
    assert [part for part in bad.parts if part not in message] == [], message
    assert standing(here) == before


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


def test_tokens_are_counted_only_of_a_prompt_with_more_bytes_than_there_is_room(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []

    class Counting:
        def render(self, text: str) -> tuple[int, ...]:
            counted.append(text)
            return (0,)

    monkeypatch.setattr(preflight, "renderer", lambda model_dir: Counting())
    around = templates.around(here / "model")
    short, long = "é" * 50, "é" * 50 + "e"
    asked = [Prompt("s", short, "benign"), Prompt("l", long, "benign")]
    preflight.lengths(asked, 100 + around, here / "model")
    assert counted == [long]


def test_the_file_of_a_tokenizer_tells_which_prompts_the_renderer_must_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = Tokenizer(models.WordLevel({"word": 0, "<end>": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens(["<end>"])
    words.enable_truncation(2)
    words.save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setattr(templates, "around", lambda model_dir: 10)
    counted: list[str] = []
    counting_renderer = SimpleNamespace(render=lambda text: counted.append(text) or (0,))
    monkeypatch.setattr(preflight, "renderer", lambda model_dir: counting_renderer)
    asked = [Prompt(str(n), "word " * n, "benign") for n in (80, 82, 84)]
    preflight.lengths([*asked, Prompt("t", "word " * 20 + "<end>", "benign")], 100, tmp_path)
    assert counted == ["word " * 82, "word " * 84, "word " * 20 + "<end>"]


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
        (("plan", "run.yaml", "seed=x"), ("command line: key `seed`: found 'x' (text)", "write a whole number")),
        (("config", "show", "rum.yaml"), ("rum.yaml: no such file; did you mean run.yaml?",)),
        (("status", "runs"), ("runs: no such file",)),
        (("status", "model"), ("model: is a model directory", "erpo chat, serve, eval and doctor take it")),
        (("tail", "run.yaml"), ("run.yaml: is a file", "name the --run-dir")),
        (("judge-check", "rules", "none.jsonl"), ("none.jsonl: no such file; did you mean",)),
        (("judge-check", "rules", "model"), ("model: is a folder", "name its files")),
        (("judge-check", "rules", "nobody/none"), ("nobody/none: no such file, and no folder nobody",)),
        (("judge-check", "rules", "train.jsonl", "-o", "held.jsonl"), ("held.jsonl: is a file", "as -o")),
        (("tune", "judge", "run.yaml", "held.jsonl/x"), ("held.jsonl/x: no such file",)),
        (("eval", "model", "model"), ("model: is a folder", "name its files")),
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
        (("compare", "model", "other"), ("model: is a model directory",)),
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
