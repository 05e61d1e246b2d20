"""An OpenAI-compatible endpoint in a thread that behaves as badly as a test wants."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = {"level": "mostly_safe", "score": 4, "rules_apply": "some", "answer_follows": True, "better": "first"}


def code_of(system: str) -> str:
    """The code a reply has to carry."""
    found = re.search(r'"code": "([0-9a-f]+)"', system)
    assert found
    return found[1]


def verdict(system: str, **values: object) -> str:
    """The reply that a question of this system message asks for, with values of `GOOD` where none are given."""
    line = next(line for line in system.splitlines() if line.startswith("Reply with one JSON object"))
    wanted = [name for name in GOOD if f'"{name}":' in line]
    return json.dumps({"code": code_of(system)} | {name: values.get(name, GOOD[name]) for name in wanted})


def completion(text: str | None, finish: str = "stop", usage: object = None) -> bytes:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(reply).encode()


class Asked:
    """One request and the means to answer it."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self._handler = handler
        self.body: dict[str, Any] = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        self.headers, self.path = handler.headers, handler.path
        self.system = self.body["messages"][0]["content"]
        self.user = self.body["messages"][1]["content"]

    def send(self, raw: bytes, status: int = 200, **headers: str) -> None:
        self.start(len(raw), status, **headers)
        self.write(raw)

    def start(self, length: int, status: int = 200, **headers: str) -> None:
        self._handler.send_response(status)
        headers = {"Content_Type": "application/json", "Content_Length": str(length)} | headers
        for name, value in headers.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.end_headers()

    def write(self, raw: bytes) -> None:
        try:
            self._handler.wfile.write(raw)
            self._handler.wfile.flush()
        except ConnectionError:
            pass  # the client has had enough

    def hang_up(self) -> None:
        self._handler.close_connection = True


Behaviour = Callable[[Asked], None]


def good(asked: Asked) -> None:
    asked.send(completion(verdict(asked.system), usage={"prompt_tokens": 100, "completion_tokens": 10}))


def status(code: int, text: str = "no", **headers: str) -> Behaviour:
    return lambda asked: asked.send(json.dumps({"error": {"message": text}}).encode(), code, **headers)


class Server:
    """`script` holds behaviours for the next requests, `always` the one after them; `asked` keeps every request."""

    def __init__(self, always: Behaviour = good) -> None:
        self.script: list[Behaviour] = []
        self.always = always
        self.asked: list[Asked] = []
        self.url = ""
        self._lock = threading.Lock()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = Asked(handler)
        with self._lock:
            self.asked.append(asked)
            behave = self.script.pop(0) if self.script else self.always
        behave(asked)


@contextmanager
def serving(always: Behaviour = good) -> Iterator[Server]:
    server = Server(always)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            server.answer(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Http(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

    http = Http(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
