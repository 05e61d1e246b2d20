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
serve.command = lambda folder, config, host, port, name, gpu: [sys.executable, "-c", child, host, str(port)]
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
    words = command(Path("/m"), config, "127.0.0.1", 8123, "mine", gpu=False)
    assert words[:3] == [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    told = options(words)
    assert told["generation-config"] == "vllm"
    sampling = json.loads(told["override-generation-config"])
    # `max_new_tokens` there would not be a default but a limit on every request.
    assert sampling == {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    assert (told["model"], told["served-model-name"], told["host"], told["port"]) == ("/m", "mine", "127.0.0.1", "8123")
    assert told["reasoning-parser"] == "erpo"
    assert (told["kv-cache-memory-bytes"], told["max-num-seqs"], told["enforce-eager"]) == (str(2**29), "16", "")
    assert "trust-remote-code" not in told


def test_a_gpu_gets_its_share_of_memory_and_a_compiled_graph() -> None:
    told = options(command(Path("/m"), Config(), "127.0.0.1", 8123, "mine", gpu=True))
    assert told["gpu-memory-utilization"] == "0.85"
    assert {"enforce-eager", "kv-cache-memory-bytes"}.isdisjoint(told)


def test_the_plug_in_that_vllm_is_told_of_is_there() -> None:
    plugin = options(command(Path("/m"), Config(), "h", 1, "n", gpu=False))["reasoning-parser-plugin"]
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
    from erpo_ray.commands import serve

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


def test_a_run_is_served_under_its_own_name_and_strangers_are_warned_of(tmp_path: Path, model: Path, port: int) -> None:
    run = tmp_path / "runs-1"
    run.mkdir()
    (run / "config.yaml").write_text("name: demo\n")
    (run / "policy").symlink_to(model)
    with started(SERVER, str(run), "--host", "0.0.0.0", "--port", str(port)) as erpo:
        assert erpo.stdout is not None
        line = erpo.stdout.readline()
        erpo.terminate()
        _, errors = erpo.communicate(timeout=30)
    assert line.startswith(f"serving demo at http://127.0.0.1:{port}/v1")
    assert "0.0.0.0 can be reached by others; VLLM_API_KEY" in errors
