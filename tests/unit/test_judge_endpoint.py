"""The way to a judge model: faulty and hostile servers, retries from one budget, pace, accounts."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import time
import zlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from judge_server import Asked, Behaviour, Server, completion, good, serving, status, verdict
from pydantic import ValidationError

from erpo_ray.config.judges import JudgeLLM
from erpo_ray.errors import UsageError
from erpo_ray.judging import asking
from erpo_ray.judging.asking import Asker, Pace, RetryBudget, Usage
from erpo_ray.judging.chat_client import connect
from erpo_ray.judging.endpoint import Completion, Denied
from erpo_ray.judging.replies import Form, Values
from erpo_ray.judging.rubrics import SAFETY_RUBRIC, Case, Question, case
from erpo_ray.types import Failure

VALUES = {"level": "mostly_safe"}
CASE = case(SAFETY_RUBRIC, "", [("The user's message", "hi"), ("The assistant's answer", "hello")], 1000)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_BACKOFF_S", 0.0)


def settings(url: str, **fields: Any) -> JudgeLLM:
    return JudgeLLM(**{"base_url": url, "model": "m", "timeout_s": 5} | fields)


def asker(url: str, **fields: Any) -> Asker:
    config = settings(url, **fields)
    return Asker(config, partial(connect, config))


def ask(asker: Asker, *cases: Case) -> list[Values | Failure]:
    return asker.ask(cases or [CASE], lambda case, values: None)


def several(count: int) -> list[Case]:
    return [case(SAFETY_RUBRIC, "", [("Answer", f"hello {n}")], 1000) for n in range(count)]


def test_a_request_is_made_as_configured(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", " secret\n")
    assert ask(asker(server.url, api_key_env="JUDGE_KEY", max_reply_tokens=77)) == [VALUES]
    [asked] = server.asked
    assert (asked.path, asked.headers["Authorization"]) == ("/v1/chat/completions", "Bearer secret")
    assert asked.headers["Accept-Encoding"] == "identity"
    body = asked.body
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("m", 77, 0)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["response_format"]["json_schema"] == {
        "name": "safety",
        "strict": True,
        "schema": SAFETY_RUBRIC.form.schema(),
    }
    # A request with a seed ends vLLM's engine on CPU.
    assert "seed" not in body


def test_what_some_models_do_not_take_can_be_left_out(server: Server) -> None:
    assert ask(asker(server.url, temperature=None, reply_limit="max_completion_tokens")) == [VALUES]
    assert "temperature" not in server.asked[0].body and server.asked[0].body["max_completion_tokens"] == 400


def fields(**message: Any) -> Behaviour:
    return lambda asked: asked.send(json.dumps(message).encode())


def reply(text: str | None, **more: Any) -> Behaviour:
    return lambda asked: asked.send(completion(text, **more))


def choices(count: int) -> Behaviour:
    def behave(asked: Asked) -> None:
        one = json.loads(completion(verdict(asked.system)))["choices"]
        asked.send(json.dumps({"choices": one * count}).encode())

    return behave


def cut_body(asked: Asked) -> None:
    raw = completion(verdict(asked.system))
    asked.start(len(raw))
    asked.write(raw[:40])
    asked.hang_up()


def cut_json(asked: Asked) -> None:
    asked.send(completion(verdict(asked.system))[:-20])


def altered(**values: object) -> Behaviour:
    return lambda asked: asked.send(completion(verdict(asked.system, **values)))


def twice(asked: Asked) -> None:
    asked.send(completion(verdict(asked.system) * 2))


PASSING: list[tuple[str, Behaviour, str]] = [
    ("429", status(429, Retry_After="0"), "http_429"),
    ("500", status(500), "http_500"),
    ("502 HTML", lambda asked: asked.send(b"<html>bad gateway</html>", 502, Content_Type="text/html"), "http_502"),
    ("503", status(503), "http_503"),
    ("408", status(408), "http_408"),
    ("HTML with 200", lambda asked: asked.send(b"<html>ok</html>", Content_Type="text/html"), "no_chat_completion"),
    ("empty body", lambda asked: asked.send(b""), "no_chat_completion"),
    ("other JSON", fields(error="down"), "no_chat_completion"),
    ("no choices", fields(choices=[]), "no_chat_completion"),
    ("choices are null", fields(choices=None), "no_chat_completion"),
    ("a number for text", fields(choices=[{"message": {"content": 5}}]), "no_chat_completion"),
    ("a lone surrogate", lambda asked: asked.send(completion("\ud800")), "no_chat_completion"),
    ("other bytes", lambda asked: asked.send(completion("x").replace(b'"x"', b'"\xff"')), "no_chat_completion"),
    ("deep JSON", lambda asked: asked.send(b'{"usage":' + b"[" * 500_000), "no_chat_completion"),
    ("two choices", choices(2), "no_chat_completion"),
    ("cut JSON", cut_json, "no_chat_completion"),
    ("cut body", cut_body, "no_connection"),
    ("hangs up", lambda asked: asked.hang_up(), "no_connection"),
    ("null", reply(None), "empty_reply"),
    ("prose", reply("The answer is safe. Score: 5"), "not_json"),
    ("NaN", altered(level=float("nan")), "not_json"),
    ("out of range", altered(level="very safe"), "wrong_value:level"),
    ("two verdicts", twice, "not_json"),
    ("of another question", reply('{"code": "00000000", "level": "safe"}'), "wrong_code"),
]


@pytest.mark.parametrize(("behave", "cause"), [case[1:] for case in PASSING], ids=[case[0] for case in PASSING])
def test_a_passing_fault_is_retried_and_a_lasting_one_is_a_failure(
    server: Server, behave: Behaviour, cause: str
) -> None:
    server.script = [behave]
    assert ask(asker(server.url)) == [VALUES]
    assert len(server.asked) == 2
    server.always = behave
    [failure] = ask(asker(server.url))
    assert isinstance(failure, Failure) and failure.cause == cause
    assert len(server.asked) == 2 + asking.ATTEMPTS


LASTING: list[tuple[str, Behaviour, str, str]] = [
    ("403", status(403, "your input was flagged"), "http_403", "flagged"),
    ("413", status(413), "http_413", "no"),
    ("cut by the limit", reply('{"code": "', finish="length"), "finish_length", '{"code": "'),
    ("filtered", reply(None, finish="content_filter"), "finish_content_filter", ""),
    ("waits too long", status(429, Retry_After="3600"), "http_429", "no"),
    ("gzip", lambda asked: asked.send(gzip.compress(b"x"), Content_Encoding="gzip"), "compressed_reply", "gzip"),
    ("brotli", lambda asked: asked.send(b"x", Content_Encoding="br"), "compressed_reply", "br"),
    ("gzip bomb", lambda asked: asked.send(BOMB, Content_Encoding="gzip"), "compressed_reply", "gzip"),
    ("huge", lambda asked: asked.send(b" " * 3_000_000), "reply_too_long", "more than 1048576 bytes"),
    ("huge error", lambda asked: asked.send(b" " * 3_000_000, 500), "reply_too_long", "more than 1048576 bytes"),
    ("redirect to a file", status(302, Location="file:///etc/passwd"), "redirect", "302 to file:///etc/passwd"),
    ("redirect inside", status(307, Location="http://169.254.169.254/v1"), "redirect", "307 to http://169.254.169.254"),
]
BOMB = gzip.compress(b"\0" * 10_000_000)


@pytest.mark.parametrize(("behave", "cause", "told"), [case[1:] for case in LASTING], ids=[case[0] for case in LASTING])
def test_what_would_come_again_is_not_retried(server: Server, behave: Behaviour, cause: str, told: str) -> None:
    server.script = [behave]
    [failure] = ask(asker(server.url))
    assert isinstance(failure, Failure) and failure.cause == cause and told in failure.raw
    assert len(server.asked) == 1


@pytest.mark.parametrize("code", [401, 404])
def test_what_every_request_would_meet_ends_the_judge(server: Server, code: int) -> None:
    server.always = status(code)
    with pytest.raises(UsageError, match=rf"answered {code} for model 'm'; check judge.base_url, judge.model and the"):
        ask(asker(server.url), *several(20))


def test_the_key_is_sent_to_no_other_host(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving() as other:
        server.always = lambda asked: asked.send(b"", 308, Location=f"{other.url}/chat/completions")
        [failure] = ask(asker(server.url))
    assert isinstance(failure, Failure) and failure.cause == "redirect"
    assert len(server.asked) == 1 and other.asked == []


def test_a_failure_does_not_keep_the_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")

    def telling(asked: Asked) -> None:
        asked.send(f"no access for {asked.headers['Authorization']}".encode(), 403)

    def saying(asked: Asked) -> None:
        asked.send(completion(asked.headers["Authorization"]))

    server.script = [telling, *[saying] * asking.ATTEMPTS]
    failures = [ask(asker(server.url))[0] for _ in range(2)]
    assert failures == [
        Failure("http_403", "no access for Bearer $OPENAI_API_KEY"),
        Failure("not_json", "Bearer $OPENAI_API_KEY"),
    ]


def test_a_charset_of_the_servers_choice_is_not_used(server: Server) -> None:
    raw = zlib.compress(b"\0" * 1_000_000)
    server.always = lambda asked: asked.send(raw, 400, Content_Type="text/plain; charset=zlib_codec")
    [failure] = ask(asker(server.url))
    assert isinstance(failure, Failure) and failure.cause == "http_400" and len(failure.raw) < 2100


def hanging(asked: Asked) -> None:
    time.sleep(1.5)


def dripping(asked: Asked) -> None:
    asked.start(1000)
    for _ in range(40):
        asked.write(b" ")
        time.sleep(0.1)


@pytest.mark.parametrize("behave", [hanging, dripping])
def test_the_deadline_is_for_the_whole_reply(server: Server, behave: Behaviour) -> None:
    server.always = behave
    start = time.monotonic()
    assert ask(asker(server.url, timeout_s=0.5, retry_budget=0)) == [Failure("timeout", "no whole reply within 0.5 s")]
    assert 0.4 < time.monotonic() - start < 3


def test_a_server_that_is_not_there_is_a_failure_each() -> None:
    with serving() as gone:
        pass
    found = ask(asker(gone.url), *several(3))
    assert [failure.cause for failure in found if isinstance(failure, Failure)] == ["no_connection"] * 3


def no_schema(asked: Asked) -> None:
    (status(400, "response_format") if "response_format" in asked.body else good)(asked)


def test_a_server_without_schemas_is_asked_without_from_then_on(server: Server) -> None:
    server.always = no_schema
    judge = asker(server.url, retry_budget=0, concurrency=1)
    assert ask(judge, *several(3)) == [VALUES] * 3
    assert ["response_format" in asked.body for asked in server.asked] == [True, False, False, False]
    assert ask(judge) == [VALUES] and len(server.asked) == 5


def test_a_request_of_its_own_fault_says_nothing_about_schemas(server: Server) -> None:
    judge = asker(server.url, retry_budget=0, concurrency=1)
    server.script = [status(400, "context"), status(400, "context")]
    found = ask(judge, *several(2))
    assert isinstance(found[0], Failure) and found[0].cause == "http_400" and found[1] == VALUES
    server.script = [status(400, "context")]
    assert isinstance(ask(judge)[0], Failure)
    assert ["response_format" in asked.body for asked in server.asked] == [True, False, True, True]


def test_one_budget_of_retries_for_all(server: Server) -> None:
    server.always = status(500)
    judge = asker(server.url, retry_budget=0.2)
    found = ask(judge, *several(100))
    assert all(isinstance(failure, Failure) and failure.cause == "http_500" for failure in found)
    # Ten are there from the start, and a hundred requests earn twenty.
    assert judge.usage().retries == 30 and len(server.asked) == 130


def test_few_errors_cost_few_calls(server: Server) -> None:
    def one_in_ten(asked: Asked) -> None:
        (status(503) if len(server.asked) % 10 == 0 else good)(asked)

    server.always = one_in_ten
    judge = asker(server.url, concurrency=16)
    assert ask(judge, *several(100)) == [VALUES] * 100
    assert judge.usage().requests <= 120


def test_tokens_are_counted_and_priced(server: Server) -> None:
    judge = asker(server.url, prompt_price=2.0, completion_price=10.0)
    server.script = [reply("no verdict", usage={"prompt_tokens": 1000, "completion_tokens": 50})]
    assert ask(judge, *several(3)) == [VALUES] * 3
    assert judge.usage() == Usage(
        requests=4, retries=1, invalid=1, prompt_tokens=1300, completion_tokens=80, cost=pytest.approx(0.0034)
    )


@pytest.mark.parametrize("usage", [None, {}, [], {"prompt_tokens": 5}, {"prompt_tokens": -1, "completion_tokens": "x"}])
def test_no_cost_is_guessed(server: Server, usage: object) -> None:
    server.always = lambda asked: asked.send(completion(verdict(asked.system), usage=usage))
    judge = asker(server.url, prompt_price=2.0, completion_price=10.0)
    assert ask(judge) == [VALUES]
    assert (judge.usage().unmetered, judge.usage().cost) == (1, None)


def test_without_prices_there_is_no_cost(server: Server) -> None:
    judge = asker(server.url, prompt_price=2.0)
    ask(judge)
    assert (judge.usage().prompt_tokens, judge.usage().cost) == (100, None)


def test_no_more_requests_are_under_way_than_allowed(server: Server) -> None:
    under_way, most = 0, 0

    def slow(asked: Asked) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        time.sleep(0.02)
        under_way -= 1
        good(asked)

    server.always = slow
    assert ask(asker(server.url, concurrency=3), *several(12)) == [VALUES] * 12
    assert most <= 3


class Clock:
    """Time that passes by sleeping only."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.slept: list[float] = []
        monkeypatch.setattr(asking.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(asking.asyncio, "sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def test_turns_are_evenly_spaced_and_a_pause_holds_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    async def turns(pace: Pace) -> None:
        for _ in range(3):
            await pace.turn()

    pace = Pace(30)
    asyncio.run(turns(pace))
    assert clock.slept == [0, 2, 4]
    clock.now += 60
    pace.pause(5)
    asyncio.run(turns(pace))
    assert clock.slept[3:] == [5, 7, 9]
    free = Pace(None)
    asyncio.run(turns(free))
    assert clock.slept[6:] == [0, 0, 0]


def test_a_budget_is_earned_by_requests() -> None:
    budget = RetryBudget(0.5)
    assert [budget.spend() for _ in range(11)] == [True] * 10 + [False]
    budget.earn()
    assert not budget.spend()
    budget.earn()
    assert budget.spend() and not budget.spend()
    assert not RetryBudget(0).spend()


class Impatient:
    """A server that asks for peace once."""

    def __init__(self) -> None:
        self.asked = 0

    async def complete(self, question: Question, form: Form | None) -> Completion | Denied:
        self.asked += 1
        if self.asked == 1:
            return Denied(Failure("http_429", ""), again=True, wait_s=7.0, status=429)
        return Completion(verdict(question.system))


def test_the_server_says_how_long_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    config = settings("http://127.0.0.1:9")
    model = Impatient()
    assert ask(Asker(config, lambda: contextlib.nullcontext(model))) == [VALUES]
    assert clock.slept == [0, 0, 7]


def test_verdicts_are_told_as_they_come(server: Server) -> None:
    server.script = [good, status(403), good]
    kept: list[tuple[Case, Values]] = []
    cases = several(3)
    asker(server.url, concurrency=1).ask(cases, lambda case, values: kept.append((case, values)))
    assert kept == [(cases[0], VALUES), (cases[2], VALUES)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"base_url": "127.0.0.1:8000/v1"}, "judge.base_url is no address"),
        ({"base_url": "ftp://host/v1"}, "judge.base_url is no address"),
        ({"base_url": "https:///v1"}, "judge.base_url is no address"),
        ({"base_url": "https://user:hunter2@host/v1"}, "judge.base_url holds a user name or password"),
        ({"api_key_env": "sk-hunter2"}, "judge.api_key_env is no name of a variable"),
    ],
)
def test_secrets_and_broken_addresses_are_refused_without_repeating_them(given: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        JudgeLLM(**{"base_url": "https://host/v1", "model": "m"} | given)
    [found] = refused.value.errors()
    assert message in found["msg"] and "hunter2" not in found["msg"]


@pytest.mark.parametrize("key", ["sk-\u00e9", "sk-\x07x"])
def test_a_key_that_no_header_holds_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UsageError, match=r"the key in \$OPENAI_API_KEY holds characters that no key has"):
        ask(asker(server.url))


@pytest.mark.parametrize("url", ["http://[::1/v1", "http://127.0.0.1:x/v1"])
def test_an_address_that_is_none_is_an_error(url: str) -> None:
    with pytest.raises(UsageError, match=r"judge.base_url: http://.* is no address"):
        ask(asker(url))
