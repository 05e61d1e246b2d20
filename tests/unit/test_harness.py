"""lm-eval as a program of its own. A script stands in for it, and a small HTTP server for vLLM's."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from test_serve_command import SERVER

from erpo_ray import preflight
from erpo_ray.cli import main
from erpo_ray.commands import evaluate, harness, serve
from erpo_ray.config import Config
from erpo_ray.errors import UsageError

PROGRAM = """#!{python}
import json, os, pathlib, sys, urllib.request
told = dict(word.removeprefix("--").partition("=")[::2] for word in sys.argv[2:])
told |= dict(part.split("=", 1) for part in told["model_args"].split(","))
health = told["base_url"].removesuffix("/v1/chat/completions") + "/health"
told |= {{"status": urllib.request.urlopen(health).status, "key": os.environ["OPENAI_API_KEY"], "health": health}}
out = pathlib.Path(told["output_path"])
out.mkdir(parents=True)
(out / "told.json").write_text(json.dumps(told))
print("|Tasks|Version|", flush=True)
sys.exit({code})
"""


@pytest.fixture
def lm_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a program with this exit code in the place of lm-eval, and a server in that of vLLM's."""
    python = sys.executable

    def make(code: int = 0) -> None:
        program = tmp_path / "bin/lm-eval"
        program.parent.mkdir()
        program.write_text(PROGRAM.format(python=python, code=code))
        program.chmod(0o755)
        # It is looked for beside this Python, where the real one may be.
        monkeypatch.setattr(sys, "executable", str(program.parent / "python"))

    def command(folder: Path, config: Config, host: str, port: int, name: str, gpu: bool, tokens: int) -> list[str]:
        return [python, "-c", SERVER, host, str(port)]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(serve, "command", command)
    monkeypatch.setattr(evaluate, "model_of", Path)
    monkeypatch.setattr(preflight, "model", lambda config: Path(config.model.path))
    return make


def test_names_behind_the_mark_are_tasks_of_the_harness() -> None:
    assert harness.split(["harmful,utility", "lm-eval:ifeval,gsm8k"]) == (["harmful", "utility"], ["ifeval", "gsm8k"])
    assert harness.split(["harmful,lm-eval:ifeval", "everyday"]) == (["harmful", "everyday"], ["ifeval"])
    assert harness.split([]) == ([], [])
    with pytest.raises(UsageError, match="found 'lm-eval:' without a task"):
        harness.split(["lm-eval:"])


def test_the_harness_is_told_where_to_ask_and_the_server_goes_with_it(
    lm_eval: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    lm_eval()
    monkeypatch.setenv("OPENAI_API_KEY", "the user's own")
    Path("c.yaml").write_text("evaluate: {per_source: 5}\ncluster: {in_flight: 7}\n")
    assert main(["eval", "model", "--suite", "lm-eval:ifeval,gsm8k", "--config", "c.yaml", "-o", "out"]) == 0
    shown = capfd.readouterr()
    assert shown.out == "|Tasks|Version|\n" and "results and samples of lm-eval: out-lm-eval" in shown.err
    told = json.loads(Path("out-lm-eval/told.json").read_text())
    assert (told["model"], told["tasks"], told["num_concurrent"]) == ("erpo", "ifeval,gsm8k", "7")
    assert (told["limit"], told["status"]) == ("5", 200)
    assert len(told["key"]) > 40, "a key of this server's own, not the user's"
    assert not serve._healthy("127.0.0.1", int(told["health"].split(":")[2].split("/")[0]))


def test_a_harness_that_fails_fails_the_command(lm_eval: Any, capfd: pytest.CaptureFixture[str]) -> None:
    lm_eval(code=3)
    assert main(["eval", "model", "--suite", "lm-eval:ifeval", "--json"]) == 1
    shown = capfd.readouterr()
    assert "lm-eval ended with exit code 3; what it said is above" in shown.err
    assert shown.out == "" and Path("evaluations/model-lm-eval/told.json").exists()


def test_what_the_harness_cannot_do_is_told_before_anything_boots(
    lm_eval: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert main(["eval", "model", "--suite", "lm-eval:ifeval"]) == 2
    assert "needs the program lm-eval; pip install 'lm-eval[api]'" in capsys.readouterr().err


def test_a_server_decodes_plainly(lm_eval: Any, capsys: pytest.CaptureFixture[str]) -> None:
    lm_eval()
    assert main(["eval", "model", "--suite", "lm-eval:ifeval", "--decode", "rose"]) == 2
    assert "is asked of a server, which decodes plainly; leave --decode out" in capsys.readouterr().err
