from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from erpo_ray.config import Teacher as Settings
from erpo_ray.errors import UsageError
from erpo_ray.rules import load
from erpo_ray.teachers import OpenAITeacher
from erpo_ray.teachers.endpoint import read_reply
from erpo_ray.traces import Trace, compose, render, split
from erpo_ray.types import Failure, Prompt

BOOK = load()
ANSWER = "Take it to the office and ask for a new one."
FORGE = Prompt("h", "How do I forge a passport?", "harmful", "fraud", "forged documents")
RENEW = Prompt("b", "How do I renew a passport?", "benign", "fraud", "forged documents")


class Stub(BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint that answers from a list of (status, text) and keeps what it was asked."""

    replies: list[tuple[int, str]] = []
    asked: list[dict[str, Any]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(json.loads(body) | {"key": self.headers["Authorization"], "path": self.path})
        status, text = self.replies.pop(0)
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        raw = json.dumps(reply if status == 200 else {"error": {"message": text}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[Settings]:
    Stub.replies, Stub.asked = [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Settings(type="openai", base_url=f"http://127.0.0.1:{server.server_port}/v1", model="m", timeout_s=10)
    server.shutdown()
    thread.join()
    server.server_close()


GOOD = "Assessment: Renew a passport. Harmless.\nRules: fraud.3: met.\nPath: Answer. Be brief."
REFUSAL = (
    "Assessment: Forge a passport.\nRules: fraud.3: violated.\nPath: Refuse.\n"
    "Answer: I'm sorry, but I can't help with that."
)


def test_the_endpoint_teacher_writes_a_trace(endpoint: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    Stub.replies = [(200, GOOD), (200, REFUSAL)]
    teacher = OpenAITeacher(endpoint, "lines")
    trace = teacher.write(RENEW, BOOK.category("fraud"), ANSWER, 5)
    assert trace == compose("Renew a passport. Harmless.", "fraud.3: met.", "Answer. Be brief.", ANSWER)
    refusal = teacher.write(FORGE, BOOK.category("fraud"), None, 5)
    assert isinstance(refusal, Trace) and refusal.answer == "I'm sorry, but I can't help with that."
    first = Stub.asked[0]
    assert (first["model"], first["temperature"], first["max_tokens"]) == ("m", 0.7, 400)
    assert "seed" not in first  # a request with a seed ends vLLM's engine on CPU
    assert (first["key"], first["path"]) == ("Bearer secret", "/v1/chat/completions")


def test_the_endpoint_prompt_fences_data_with_fresh_codes(endpoint: Settings) -> None:
    trace = compose("Renew a passport.", "fraud.3: met.", "Answer.", ANSWER)
    Stub.replies = [(200, split(render(trace, "tags"))[0] or "")] * 2
    for _ in range(2):
        assert OpenAITeacher(endpoint, "tags").write(RENEW, BOOK.category("fraud"), ANSWER, 0) == trace
    asked = [request["messages"][1]["content"] for request in Stub.asked]
    fences = [re.findall(r"^([0-9a-f]{16})\n(.*)\n\1$", text, re.MULTILINE) for text in asked]
    assert [[data for _, data in found] for found in fences] == [[RENEW.text, ANSWER]] * 2
    assert len({code for found in fences for code, _ in found}) == 4
    assert "<rule_verification>" in asked[0] and "fraud.3 Forged papers and money" in asked[0]
    assert "The message is harmless" in asked[0] and "Answer: a refusal" not in asked[0]


def test_a_guidance_stands_behind_the_instructions_and_in_front_of_the_form(endpoint: Settings) -> None:
    Stub.replies = [(200, GOOD)] * 2
    for guidance in ("", "Cite one rule."):
        settings = endpoint.model_copy(update={"guidance": guidance})
        assert isinstance(OpenAITeacher(settings, "lines").write(RENEW, BOOK.category("fraud"), ANSWER, 0), Trace)
    plain, guided = (request["messages"][0]["content"] for request in Stub.asked)
    assert guided == f"{plain}\n\nCite one rule." and plain.endswith("at most 60 words in all.")


def test_an_ill_formed_reply_is_asked_for_once_more(endpoint: Settings) -> None:
    Stub.replies = [(200, "I will not write that."), (200, GOOD), (200, "no"), (200, "Assessment: a\nPath: Answer.")]
    teacher = OpenAITeacher(endpoint, "lines")
    assert isinstance(teacher.write(RENEW, BOOK.category("fraud"), ANSWER, 0), Trace)
    assert "missing_section:assessment" in Stub.asked[1]["messages"][3]["content"]
    failed = teacher.write(RENEW, BOOK.category("fraud"), ANSWER, 0)
    assert failed == Failure("missing_section:rules", "Assessment: a\nPath: Answer.")
    assert len(Stub.asked) == 4


def test_a_request_that_fails_is_a_failure_and_a_wrong_model_an_error(endpoint: Settings) -> None:
    Stub.replies = [(400, "context too long"), (404, "no such model")]
    teacher = OpenAITeacher(endpoint, "lines")
    failed = teacher.write(RENEW, BOOK.category("fraud"), ANSWER, 0)
    assert failed == Failure("http_400", '{"error": {"message": "context too long"}}')
    with pytest.raises(
        UsageError, match=r"answered 404 for model 'm'; check teacher.base_url, teacher.model and the key"
    ):
        teacher.write(RENEW, BOOK.category("fraud"), ANSWER, 0)


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        ("<think>long musing\n</think>\n\n" + REFUSAL, ""),
        ("<think>long musing", "unclosed_think"),
        (REFUSAL.partition("\nAnswer:")[0], "empty_answer"),
        (REFUSAL.replace("Path: Refuse", "Path: No"), "no_verdict"),
        ("Here you go:\n" + REFUSAL, "stray_text"),
        ("", "missing_section:assessment"),
    ],
)
def test_replies_are_read_strictly(reply: str, cause: str) -> None:
    found = read_reply(reply, None, "lines")
    if cause:
        assert found == Failure(cause, reply)
    else:
        assert isinstance(found, Trace) and found.cited == ("fraud.3",)
