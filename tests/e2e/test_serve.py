"""`erpo serve` with vLLM's real server on the embedded model, asked through the openai client."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import psutil
import pytest
from ports import reserved

from erpo_ray.commands import harness
from erpo_ray.config import Config
from erpo_ray.engines.models import EMBEDDED, materialise
from erpo_ray.errors import UsageError

ROOT = Path(__file__).parents[2]
PATIENCE_S = 540
"""Twenty to forty seconds are usual; a busy machine is no fault of the code."""
ASK = {"role": "user", "content": "What colour is the sky?"}
TOLD = {"role": "assistant", "content": "<think>\nColours are harmless.\n</think>\nThe sky is blue."}
KEY = "canary-key-of-the-served-model"
LIMIT = 64
"""Tokens of a completion, as the server is told."""
SHOWN: Any = [ASK, TOLD, ASK, TOLD, ASK, TOLD, ASK]
"""The embedded model was never taught to write traces; three of them before its eyes it writes a fourth."""

TASK = """
task: fruits
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["<never>"], max_gen_toks: 16}}
metric_list: [{{metric: exact_match}}]
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server that `erpo serve` started with a key; SIGTERM must end both, and neither says the key."""
    materialise(EMBEDDED)
    with reserved() as port:
        yield from _serving(port, tmp_path_factory.mktemp("serve") / "log")


def _serving(port: int, log: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "erpo_ray", "serve", EMBEDDED, "--port", str(port), "--name", "smol"]
    command += ["--max-tokens", str(LIMIT)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_API_KEY": KEY}
    with log.open("wb") as errors:
        erpo = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert _first_line(erpo, log) == f"serving smol at http://127.0.0.1:{port}/v1 (Ctrl-C stops it)\n"
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        erpo.send_signal(signal.SIGTERM)
        code = erpo.wait(60)
    assert code == 75 and KEY not in log.read_text(), log.read_text()[-3000:]
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", port))


def _first_line(erpo: subprocess.Popen[str], log: Path) -> str:
    lines: queue.Queue[str] = queue.Queue()
    stdout = erpo.stdout
    assert stdout is not None
    threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        assert erpo.poll() is None, log.read_text()[-3000:]
        try:
            return lines.get(timeout=1)
        except queue.Empty:
            continue
    raise AssertionError(f"no server after {PATIENCE_S} s: {log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def client(served: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=served, api_key=KEY, max_retries=0, timeout=600)


def reasoning(message: Any) -> str | None:
    """vLLM's field; older servers and some clients call it `reasoning_content`."""
    return (message.model_extra or {}).get("reasoning")


def test_the_model_goes_by_the_name_it_was_given(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["smol"]


def test_the_trace_comes_apart_from_the_answer(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="smol", messages=SHOWN, max_tokens=64)
    message = reply.choices[0].message
    assert reply.choices[0].finish_reason == "stop"
    assert reasoning(message) and message.content
    assert not any(tag in f"{reasoning(message)}{message.content}" for tag in ("<think>", "</think>", "<|"))
    assert reply.usage is not None and reply.usage.completion_tokens_details is not None
    counted = reply.usage.completion_tokens_details.reasoning_tokens
    assert counted is not None and 0 < counted < reply.usage.completion_tokens


def test_a_stream_says_the_same_and_the_trace_first(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="smol", messages=SHOWN, max_tokens=64).choices[0].message
    stream = client.chat.completions.create(model="smol", messages=SHOWN, max_tokens=64, stream=True)
    deltas = [chunk.choices[0].delta for chunk in stream if chunk.choices]
    assert "".join(reasoning(delta) or "" for delta in deltas) == reasoning(whole)
    assert "".join(delta.content or "" for delta in deltas) == whole.content
    order = ["content" if delta.content else "reasoning" for delta in deltas if delta.content or reasoning(delta)]
    assert order == sorted(order, reverse=True) and len(order) > 4


@pytest.mark.parametrize("streaming", [False, True])
def test_a_trace_that_is_cut_off_is_no_answer(client: openai.OpenAI, streaming: bool) -> None:
    if streaming:
        stream = client.chat.completions.create(model="smol", messages=SHOWN, max_tokens=6, stream=True)
        deltas = [chunk.choices[0].delta for chunk in stream if chunk.choices]
        content = "".join(delta.content or "" for delta in deltas)
        thought = "".join(reasoning(delta) or "" for delta in deltas)
    else:
        choice = client.chat.completions.create(model="smol", messages=SHOWN, max_tokens=6).choices[0]
        assert choice.finish_reason == "length" and choice.message.content is None
        content, thought = "", reasoning(choice.message) or ""
    assert content == "" and thought


def test_an_answer_without_a_trace_is_content(client: openai.OpenAI) -> None:
    asked: Any = [{"role": "user", "content": "Name one fruit."}]
    message = client.chat.completions.create(model="smol", messages=asked, max_tokens=24).choices[0].message
    assert message.content and reasoning(message) is None


def test_lm_eval_asks_it_and_scores_the_answer_without_the_trace(served: str, tmp_path: Path) -> None:
    """A public harness from PyPI, where it is installed; a task of our own needs no network."""
    try:
        program = harness.program()
    except UsageError:
        pytest.skip("lm-eval is not installed")
    rows = [{"question": f"Name {number} fruits.", "answer": "x"} for number in (1, 2, 3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "fruits.yaml").write_text(TASK.format(rows=tmp_path / "rows.jsonl"))
    config = Config.model_validate({"evaluate": {"per_source": 2}})
    command = harness.command(program, served, "smol", [str(tmp_path / "fruits.yaml")], config, tmp_path / "out")
    environment = {**os.environ, "OPENAI_API_KEY": KEY, "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    (samples,) = (tmp_path / "out").rglob("samples_fruits_*.jsonl")
    found = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(found) == 2
    for sample in found:
        (reply,) = sample["resps"][0]
        assert reply and not any(tag in reply for tag in ("<think>", "</think>", "<|"))


def test_what_a_request_leaves_open_is_greedy(client: openai.OpenAI) -> None:
    asked: Any = [{"role": "user", "content": "Tell me a short story about a boat."}]
    left_open = client.chat.completions.create(model="smol", messages=asked, max_tokens=24)
    greedy = client.chat.completions.create(model="smol", messages=asked, max_tokens=24, temperature=0)
    assert left_open.choices[0].message.content == greedy.choices[0].message.content


def test_nothing_but_health_is_told_without_the_key_and_nothing_is_offered_that_is_not_listed(served: str) -> None:
    root = served.removesuffix("/v1")
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx2.Client(base_url=root) as stranger, httpx2.Client(base_url=root, headers=headers) as friend:
        assert stranger.get("/health").status_code == 200
        for path in ("/v1/models", "/metrics", "/version", "/docs", "/openapi.json", "/load", "/ping"):
            assert stranger.get(path).status_code == stranger.options(path).status_code == 401, path
        for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/invocations", "/v1/load_lora_adapter"):
            assert stranger.post(path, json={}).status_code == 401, path
        for path in ("/v1/models", "/metrics", "/version"):
            assert friend.get(path).status_code == 200, path
        for path in ("/docs", "/openapi.json", "/load", "/ping", "/server_info"):
            assert friend.get(path).status_code == 404, path
        assert friend.post("/tokenize", json={"model": "smol", "prompt": "hi"}).json()["count"] > 0
        assert friend.post("/tokenize", content=b" " * 2**21).status_code == 413


def test_a_completion_has_no_more_tokens_than_the_server_allows(client: openai.OpenAI) -> None:
    story: Any = [{"role": "user", "content": "Tell me a long story about a boat, a whale and a lighthouse."}]
    left_open = client.chat.completions.create(model="smol", messages=story)
    assert left_open.usage is not None and left_open.usage.completion_tokens == LIMIT
    assert left_open.choices[0].finish_reason == "length"
    with pytest.raises(openai.BadRequestError, match="max_tokens is more than 64, the limit of this server"):
        client.chat.completions.create(model="smol", messages=story, max_tokens=LIMIT + 1)


def test_its_processes_listen_at_its_address_alone_and_are_not_told_the_key(served: str) -> None:
    port = int(served.split(":")[2].split("/")[0])
    (server,) = [child for child in psutil.Process().children() if "serve" in child.cmdline()]
    heard, told = set[tuple[str, int]](), list[str]()
    for process in server.children(recursive=True):
        told += [*process.cmdline(), *process.environ().values()]
        heard |= {each.laddr for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN}
    assert ("127.0.0.1", port) in heard and {address for address, _ in heard} == {"127.0.0.1"}
    assert len(told) > 10 and not any(KEY in word for word in told)
