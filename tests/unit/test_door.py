"""The door of `erpo serve` as plain ASGI: what passes it, and that nothing behind it hears of the rest."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Thread
from typing import Any

import pytest
import uvicorn

from erpo_ray.engines import server
from erpo_ray.engines.door import OPEN, Door, Terms
from erpo_ray.engines.server import Impatient

KEY = "k3y-of-this-server"
TERMS = Terms(KEY, tokens=100, requests=2, completions=4, body=1000, body_s=5.0)
CHAT = "/v1/chat/completions"
PATHS = [
    *OPEN, "/", "/docs", "/redoc", "/openapi.json", "/ping", "/load", "/invocations", "/server_info", "/v1",
    "/V1/models", "/v1/models/", "//v1/models", "/v1/embeddings", "/v1/messages", "/v1/load_lora_adapter",
    "/inference/v1/generate", "/reset_prefix_cache", "/sleep", "/collective_rpc", "/tokenizer_info", "/health/",
    "/health/../v1/models", "/metrics/",
]  # fmt: skip


@dataclass
class App:
    """What stands behind the door: says yes to everything, and remembers what it heard."""

    heard: list[bytes] = field(default_factory=list)
    hold: asyncio.Event | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.heard.append((await receive()).get("body", b"") if scope["type"] == "http" else b"")
        if self.hold:
            await self.hold.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
        await send({"type": "http.response.body", "body": b"yes"})


@dataclass(frozen=True)
class Said:
    status: int
    headers: dict[bytes, bytes]
    body: bytes


async def asked(
    door: Door,
    path: str,
    method: str = "GET",
    headers: dict[str, str] | list[tuple[str, str]] | None = None,
    pieces: tuple[bytes, ...] = (b"",),
    **scope: Any,
) -> Said:
    """The answer to one request, whose body comes in `pieces`."""
    named = headers.items() if isinstance(headers, dict) else headers or ()
    raw = [(name.lower().encode(), value.encode()) for name, value in named]
    left = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    left[-1]["more_body"] = False
    sent: list[Any] = []

    async def receive() -> Any:
        return left.pop(0) if left else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    given = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": raw, **scope}
    await door(given, receive, send)
    return Said(sent[0].get("status", 0), dict(sent[0].get("headers", ())), b"".join(s.get("body", b"") for s in sent))


def ask(door: Door, path: str, method: str = "GET", **more: Any) -> Said:
    return asyncio.run(asked(door, path, method, **more))


def shown(key: str = KEY) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def chat(door: Door, body: object, path: str = CHAT) -> Said:
    return ask(door, path, "POST", headers=shown(), pieces=(json.dumps(body).encode(),))


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD", "DELETE"])
def test_no_path_but_health_answers_without_the_key(method: str) -> None:
    app = App()
    door = Door(app, TERMS)
    for path in PATHS:
        if path == "/health":
            continue
        said = ask(door, path, method)
        assert (said.status, said.headers[b"www-authenticate"]) == (401, b"Bearer"), path
    assert app.heard == []


def test_health_is_told_to_everybody() -> None:
    app = App()
    assert ask(Door(app, TERMS), "/health").body == b"yes" and len(app.heard) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": f"Bearer {KEY.upper()}"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"X-Api-Key": KEY},
        {"Api-Key": KEY},
        {"Cookie": f"key={KEY}; Authorization=Bearer {KEY}"},
        [("Authorization", "Bearer wrong"), ("Authorization", f"Bearer {KEY}")],
    ],
)
def test_a_wrong_key_or_one_in_a_wrong_place_opens_nothing(headers: Any) -> None:
    app = App()
    said = ask(Door(app, TERMS), "/v1/models", headers=headers, query_string=f"api_key={KEY}&key={KEY}".encode())
    assert said.status == 401 and KEY.encode() not in said.body and app.heard == []


def test_with_the_key_the_paths_that_are_listed_answer_and_no_others() -> None:
    app = App()
    door = Door(app, TERMS)
    for path in PATHS:
        for method in ("GET", "POST", "OPTIONS"):
            status = ask(door, path, method, headers=shown(), pieces=(b"{}",)).status
            assert status == (404 if path not in OPEN else 200 if OPEN[path] == method else 405), (path, method)
    assert len(app.heard) == len(OPEN)
    assert ask(door, "/v1/models", headers={"authorization": f"bearer  {KEY} "}).status == 200


def test_terms_do_not_show_their_key() -> None:
    assert KEY not in repr(TERMS) and "tokens=100" in repr(TERMS)


def test_a_web_socket_is_refused_and_a_lifespan_is_not() -> None:
    app = App()
    assert ask(Door(app, TERMS), "/v1/realtime", headers=shown(), type="websocket").status == 0 and app.heard == []
    ask(Door(app, TERMS), "", type="lifespan")
    assert app.heard == [b""]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:8000"}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({}, 403),
        ({"Host": "evil.example:8000"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ([("Host", "localhost"), ("Host", "evil.example")], 403),
        ({"Host": "localhost", "Origin": "https://evil.example"}, 403),
        ({"Host": "localhost", "Origin": "null"}, 403),
        ({"Host": "localhost", "Origin": ""}, 403),
        ([("Host", "localhost"), ("Origin", "http://localhost"), ("Origin", "https://evil.example")], 403),
    ],
)
def test_without_a_key_programs_of_this_machine_are_answered_and_web_pages_are_not(headers: Any, status: int) -> None:
    door = Door(App(), replace(TERMS, key=""))
    assert ask(door, "/v1/models", headers=headers).status == status
    assert ask(door, "/health", headers=headers).status == status


@pytest.mark.parametrize(
    ("headers", "pieces"),
    [
        ({"Content-Length": "1001"}, (b"{}",)),
        ({"Content-Length": "-1"}, (b"{}",)),
        ({"Content-Length": "9" * 5000}, (b"{}",)),
        ({"Content-Length": "2"}, (b" " * 1001,)),
        ({}, (b" " * 1001,)),
        ({"Transfer-Encoding": "chunked"}, tuple(b" " * 100 for _ in range(11))),
    ],
)
def test_a_body_that_is_or_says_it_is_too_large_is_not_read_on(headers: dict[str, str], pieces: Any) -> None:
    app = App()
    said = ask(Door(app, TERMS), "/tokenize", "POST", headers=shown() | headers, pieces=pieces)
    assert (said.status, said.headers[b"connection"], app.heard) == (413, b"close", [])


def test_a_body_of_many_pieces_reaches_the_app_whole() -> None:
    app = App()
    body = json.dumps({"messages": [], "max_tokens": 100}).encode()
    pieces = tuple(bytes([each]) for each in body)
    assert ask(Door(app, TERMS), CHAT, "POST", headers=shown(), pieces=pieces).status == 200
    assert app.heard == [body]


def test_a_body_that_never_comes_is_not_waited_for() -> None:
    door = Door(App(), replace(TERMS, body_s=0.1))

    async def slow() -> Said:
        sent: list[Any] = []

        async def receive() -> Any:
            await asyncio.sleep(60)

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"authorization", f"Bearer {KEY}".encode())]
        await door({"type": "http", "method": "POST", "path": CHAT, "headers": headers}, receive, send)
        return Said(sent[0]["status"], {}, sent[1]["body"])

    assert asyncio.run(slow()).status == 408
    assert door._within == 0


def test_more_than_so_many_at_once_are_told_to_come_again_and_health_still_answers() -> None:
    async def crowd() -> tuple[list[int], Said, int, int]:
        app = App(hold=asyncio.Event())
        door = Door(app, TERMS)
        first = [asyncio.create_task(asked(door, "/v1/models", headers=shown())) for _ in range(2)]
        await asyncio.sleep(0.05)
        late = await asked(door, "/v1/models", headers=shown())
        stranger = (await asked(door, "/v1/models")).status
        health = asyncio.create_task(asked(door, "/health"))
        await asyncio.sleep(0)
        assert app.hold is not None
        app.hold.set()
        statuses = [(await each).status for each in [*first, health]]
        return statuses, late, stranger, (await asked(door, "/v1/models", headers=shown())).status

    statuses, late, stranger, after = asyncio.run(crowd())
    assert statuses == [200, 200, 200] and (stranger, after) == (401, 200)
    assert (late.status, late.headers[b"retry-after"]) == (429, b"1")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
@pytest.mark.parametrize(
    ("asked_for", "reason"),
    [
        ({"max_tokens": 101}, "max_tokens is more than 100"),
        ({"max_completion_tokens": 10**30}, "max_completion_tokens is more than 100"),
        ({"max_output_tokens": 101}, "max_output_tokens is more than 100"),
        ({"max_tokens": 5, "max_completion_tokens": 101}, "max_completion_tokens is more than 100"),
        ({"max_tokens": "101"}, "max_tokens is no whole number"),
        ({"max_tokens": 101.0}, "max_tokens is no whole number"),
        ({"max_tokens": True}, "max_tokens is no whole number"),
        ({"n": 5}, "more than 4 completions"),
        ({"best_of": 5, "n": 1}, "more than 4 completions"),
        ({"prompt": ["a"] * 5}, "more than 4 completions"),
        ({"prompt": [[1], [2], [3]], "n": 2}, "more than 4 completions"),
        ([], "no JSON object"),
    ],
)
def test_more_than_the_limits_is_refused_with_the_limit(asked_for: Any, reason: str, path: str) -> None:
    app = App()
    said = chat(Door(app, TERMS), asked_for, path)
    assert said.status == 400 and reason in json.loads(said.body)["error"]["message"] and app.heard == []


@pytest.mark.parametrize(
    "asked_for",
    [{}, {"max_tokens": 100}, {"max_tokens": None, "n": 4}, {"prompt": [1] * 90}, {"prompt": ["a", "b"], "n": 2}],
)
def test_what_keeps_to_the_limits_passes(asked_for: Any) -> None:
    assert chat(Door(App(), TERMS), asked_for).status == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 900, b"\xff\xfe", b'{"max_tokens": ' + b"9" * 900 + b"}"])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    app = App()
    said = ask(Door(app, TERMS), CHAT, "POST", headers=shown(), pieces=(body,))
    assert said.status == 400 and app.heard == []


def test_of_a_name_that_is_there_twice_the_door_reads_the_one_that_vllm_reads() -> None:
    body = b'{"max_tokens": 1, "max_tokens": 101}'
    assert ask(Door(App(), TERMS), CHAT, "POST", headers=shown(), pieces=(body,)).status == 400
    wide = '{"max_tokens": 101}'.encode("utf-16")
    assert ask(Door(App(), TERMS), CHAT, "POST", headers=shown(), pieces=(wide,)).status == 400


@contextmanager
def listening(app: Any) -> Iterator[int]:
    """The port of a uvicorn that serves with our connections."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = uvicorn.Config(app, http=Impatient, ws="none", log_level="critical", lifespan="off")
        running = uvicorn.Server(config)
        thread = Thread(target=lambda: asyncio.run(running.serve([taken])), daemon=True)
        thread.start()
        try:
            yield taken.getsockname()[1]
        finally:
            running.should_exit = True
            thread.join(10)


def until_closed(client: socket.socket) -> tuple[bytes, float]:
    """What came until the server ended the connection, and after how many seconds."""
    began, said = time.monotonic(), b""
    client.settimeout(10)
    try:
        while piece := client.recv(4096):
            said += piece
    except ConnectionResetError:
        pass
    return said, time.monotonic() - began


def test_who_says_nothing_or_drips_is_cut_off_and_who_waits_for_an_answer_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "HEAD_S", 0.6)

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(1.0)
        await App()(scope, receive, send)

    request = b"GET / HTTP/1.1\r\nHost: h\r\n"
    with listening(slow) as port:
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]
        silent, dripping, whole, again = clients
        for client in (whole, again):
            client.sendall(request + b"\r\n")
        for byte in request[:5]:
            dripping.sendall(bytes([byte]))
            time.sleep(0.05)
        assert until_closed(silent)[0] == until_closed(dripping)[0] == b""
        for client in (whole, again):
            said = b""
            while not said.endswith(b"yes"):
                said += client.recv(4096)
            assert said.startswith(b"HTTP/1.1 200")
        # On a connection that was of use once a head has no more time.
        again.sendall(request)
        said, waited = until_closed(again)
        assert said == b"" and waited < 3
        for client in clients:
            client.close()
