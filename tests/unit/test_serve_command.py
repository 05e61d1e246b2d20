"""`erpo serve` up to vLLM: what it refuses, what it starts, how it ends. A small HTTP server stands in for vLLM's."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes import EMPTY
from ports import reserved

from erpo_ray.cli import main
from erpo_ray.commands import serve
from erpo_ray.commands.serve import command, require_address
from erpo_ray.config import Config
from erpo_ray.errors import UsageError

ROOT = Path(__file__).parents[2]
SERVER = """
import http.server, sys
print("vLLM logs here", flush=True)
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *words): pass
http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), Healthy).serve_forever()
"""
# What a shell starts in the background ignores Ctrl-C, and so would all that it starts.
DRIVER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from erpo_ray import cli
from erpo_ray.commands import serve
child = sys.argv[1]
serve.command = lambda folder, config, host, port, name, gpu, tokens: [sys.executable, "-c", child, host, str(port)]
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "a-model"
    folder.mkdir()
    (folder / "config.json").write_text('{"max_position_embeddings": 2048}')
    (folder / "model.safetensors").write_bytes(EMPTY)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


@pytest.fixture
def port() -> Iterator[int]:
    with reserved() as found:
        yield found


@contextmanager
def started(child: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`erpo serve` with `child` in the place of vLLM's server; killed at the latest when the block ends."""
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, child, "serve", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    ) as erpo:
        try:
            yield erpo
        finally:
            erpo.kill()


def options(words: list[str]) -> dict[str, str]:
    return dict(word.removeprefix("--").partition("=")[::2] for word in words if word.startswith("--"))


def test_vllm_is_told_everything_that_a_model_directory_could_tell_it_otherwise() -> None:
    config = Config.model_validate({"cluster": {"kv_cache_gib": 0.5, "in_flight": 16}})
    words = command(Path("/m"), config, "127.0.0.1", 8123, "mine", gpu=False, tokens=77)
    assert words[:3] == [sys.executable, "-m", "erpo_ray.engines.server"]
    told = options(words)
    assert told["generation-config"] == "vllm"
    sampling = json.loads(told["override-generation-config"])
    # `max_new_tokens` there is no default but a limit on every request.
    greedy = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    assert sampling == greedy | {"max_new_tokens": 77}
    assert (told["model"], told["served-model-name"], told["host"], told["port"]) == ("/m", "mine", "127.0.0.1", "8123")
    assert told["reasoning-parser"] == "erpo"
    assert (told["kv-cache-memory-bytes"], told["max-num-seqs"], told["enforce-eager"]) == (str(2**29), "16", "")
    assert "trust-remote-code" not in told


def test_a_gpu_gets_its_share_of_memory_and_a_compiled_graph() -> None:
    told = options(command(Path("/m"), Config(), "127.0.0.1", 8123, "mine", gpu=True, tokens=1))
    assert told["gpu-memory-utilization"] == "0.85"
    assert {"enforce-eager", "kv-cache-memory-bytes"}.isdisjoint(told)


def test_the_plug_in_that_vllm_is_told_of_is_there() -> None:
    plugin = options(command(Path("/m"), Config(), "h", 1, "n", gpu=False, tokens=1))["reasoning-parser-plugin"]
    source = (ROOT / plugin.replace(".", "/")).with_suffix(".py").read_text()
    assert 'NAME = "erpo"' in source and "register_module(NAME, module=ErpoReasoningParser)" in source


def test_a_port_that_is_taken_is_told_before_anything_boots(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(model), "--port", str(port)]) == 2
    assert f"--port: {port} is in use on 127.0.0.1; stop what listens there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("bad..host", "which is no address"),
        ("", "which is no address"),
        ("192.0.2.1", "is no address of this machine"),
    ],
)
def test_a_host_that_cannot_be_listened_on_is_a_usage_error(host: str, message: str, port: int) -> None:
    with pytest.raises(UsageError, match=f"--host: .*{message}"):
        require_address(host, port)


def test_a_free_address_is_left_free(port: int) -> None:
    require_address("127.0.0.1", port)
    with socket.create_server(("127.0.0.1", port)), pytest.raises(UsageError, match=f"--port: {port} is in use"):
        require_address("127.0.0.1", port)
    require_address("127.0.0.1", port)


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_a_port_is_a_number_that_a_client_can_name(port: str, model: Path) -> None:
    assert main(["serve", str(model), "--port", port]) == 2


def test_a_model_that_is_missing_or_without_template_is_a_usage_error(
    model: Path, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(model / "nothing"), "--port", str(port)]) == 2
    assert "is no directory" in capsys.readouterr().err
    (model / "chat_template.jinja").unlink()
    assert main(["serve", str(model), "--port", str(port)]) == 2
    assert "has no chat template" in capsys.readouterr().err


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_serves_and_takes_its_server_with_it(model: Path, port: int, stop: signal.Signals) -> None:
    with started(SERVER, str(model), "--port", str(port)) as erpo:
        assert erpo.stdout is not None
        line = erpo.stdout.readline()
        erpo.send_signal(stop)
        _, errors = erpo.communicate(timeout=30)
    assert line == f"serving a-model at http://127.0.0.1:{port}/v1 (Ctrl-C stops it)\n"
    assert erpo.returncode == 75, errors
    assert "Traceback" not in errors
    require_address("127.0.0.1", port)


def test_a_server_that_is_deaf_to_sigterm_is_killed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "STOP_SECONDS", 0.2)
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"deaf\n"
        began = time.monotonic()
        serve.stop(child)
        assert child.returncode == -signal.SIGKILL and time.monotonic() - began < 10


def test_a_server_that_ends_by_itself_is_an_environment_fault(model: Path, port: int) -> None:
    with started("raise SystemExit(7)", str(model), "--port", str(port)) as erpo:
        output, errors = erpo.communicate(timeout=30)
    assert (erpo.returncode, output) == (3, "")
    assert "vLLM's server ended with exit code 7" in errors


def test_a_run_is_served_under_its_own_name(tmp_path: Path, model: Path, port: int) -> None:
    run = tmp_path / "runs-1"
    run.mkdir()
    (run / "config.yaml").write_text("name: demo\n")
    (run / "policy").symlink_to(model)
    with started(SERVER, str(run), "--port", str(port)) as erpo:
        assert erpo.stdout is not None
        line = erpo.stdout.readline()
        erpo.terminate()
        erpo.communicate(timeout=30)
    assert line.startswith(f"serving demo at http://127.0.0.1:{port}/v1")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "127.0.0.1.nip.io"])
def test_others_are_not_served_without_a_key(
    host: str, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.setattr(serve, "require_address", lambda host, port: None)
    assert main(["serve", str(model), "--host", host]) == 2
    said = capsys.readouterr().err
    assert f"--host: {host} can be reached by others; set VLLM_API_KEY, or put a key into a file of mode 0600" in said


TELLING = """
import json, os, stat, sys
sockets = os.environ["VLLM_RPC_BASE_PATH"]
print(json.dumps({
    "terms": json.load(sys.stdin), "words": sys.argv, "environment": dict(os.environ),
    "sockets": oct(stat.S_IMODE(os.stat(sockets).st_mode)),
}), flush=True)
raise SystemExit(7)
"""


@pytest.mark.parametrize("by_file", [False, True])
def test_the_key_reaches_the_server_and_stands_in_no_command_line_nor_environment(
    by_file: bool, model: Path, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "canary-key-0123456789"
    monkeypatch.setenv("VLLM_API_KEY", "of-the-environment" if by_file else key)
    file = tmp_path / "key"
    file.touch(0o600)
    file.write_text(f"{key}\n")
    more = ["--key-file", str(file)] if by_file else []
    words = [str(model), "--host", "0.0.0.0", "--port", str(port), "--max-tokens", "5", "--max-requests", "6"]
    with started(TELLING, *words, *more) as erpo:
        output, errors = erpo.communicate(timeout=30)
    assert (erpo.returncode, output) == (3, "")
    told = json.loads(next(line for line in errors.splitlines() if line.startswith("{")))
    terms = told.pop("terms")
    assert (terms["key"], terms["tokens"], terms["requests"]) == (key, 5, 6)
    assert key not in json.dumps(told) and "VLLM_API_KEY" not in told["environment"]
    assert key not in errors.replace(json.dumps(terms), "")
    assert told["environment"]["VLLM_HOST_IP"] == "127.0.0.1" and told["sockets"] == "0o700"
    assert not Path(told["environment"]["VLLM_RPC_BASE_PATH"]).exists()


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        ("k" * 32, 0o640, r"others can read .*key; chmod 600 it, or make a new key"),
        ("k" * 32, 0o604, r"others can read .*key; chmod 600 it, or make a new key"),
        (" \n", 0o600, r"key is empty; write a key into it"),
        ("two words", 0o600, r"a key is ASCII without spaces, on one line"),
        ("one\ntwo", 0o600, r"a key is ASCII without spaces, on one line"),
        ("schlüssel", 0o600, r"a key is ASCII without spaces, on one line"),
        (None, 0o600, r"cannot read .*key: .*No such file"),
    ],
)
def test_a_key_file_that_others_can_read_or_that_holds_no_key_is_a_usage_error(
    text: str | None, mode: int, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    with pytest.raises(UsageError, match=message):
        serve.key_of(file)


def test_what_is_started_before_the_server_does_not_inherit_the_key_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "canary-key")
    assert serve.key_of(None) == "canary-key" and "canary-key" not in os.environ.values()
