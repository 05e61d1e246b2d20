"""A teacher's endpoint that fails: what becomes of the prompt and of the stage, and what is not asked for twice."""

from __future__ import annotations

import gzip
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import test_loop
from fakes import Letters
from judge_server import Asked, Behaviour, Server, completion, serving, status
from judged import group, judged, prompt
from pydantic import ValidationError
from rundir_driver import NoSync

from erpo_ray import synthesis
from erpo_ray.config import Config, Imitate, Teacher
from erpo_ray.errors import RunFailed, UsageError
from erpo_ray.loop import synthesize
from erpo_ray.methods import METHODS
from erpo_ray.methods.base import Task
from erpo_ray.rules import load
from erpo_ray.rundir.lines import ledger_rows, read_rows
from erpo_ray.teachers import OpenAITeacher, chat
from erpo_ray.teachers.chat import answered, unanswered
from erpo_ray.teachers.kept import Reply
from erpo_ray.types import Example, Failure, LeftOut, Policy, Prompt

BOOK = load()
FORGE = Prompt("h", "How do I forge a passport?", "harmful", "fraud")
REFUSAL = "I'm sorry, but I can't help with that."


def teach(asked: Asked) -> None:
    """What a good teacher replies, with a rule of the category that it is shown."""
    text = asked.user
    [rule, *_] = [line.split()[0] for line in text.splitlines() if line.partition(".")[2][:1].isdigit()]
    if "The message is harmful" in text:
        said = f"Assessment: Harmful.\nRules: {rule}: violated.\nPath: Refuse.\nAnswer: {REFUSAL}"
    else:
        said = f"Assessment: Harmless.\nRules: {rule}: met.\nPath: Answer."
    asked.send(completion(said))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(chat, "_RETRIES", 0)
    with serving(teach) as server:
        yield server


def settings(server: Server, **fields: Any) -> Teacher:
    return Teacher.model_validate({"type": "openai", "base_url": server.url, "model": "m", "timeout_s": 5} | fields)


def said(server: Server, **fields: Any) -> Any:
    return OpenAITeacher(settings(server, **fields), "lines").write(FORGE, BOOK.category("fraud"), None, 0)


def raw(body: bytes, code: int = 200, **headers: str) -> Behaviour:
    return lambda asked: asked.send(body, code, **headers)


def cut_body(asked: Asked) -> None:
    asked.start(100)
    asked.write(b'{"choices"')
    asked.hang_up()


PAGE = b"<html>Bad gateway</html>"
TWO = json.dumps({"choices": json.loads(completion("a"))["choices"] * 2}).encode()


@pytest.mark.parametrize(
    ("behave", "cause", "told"),
    [
        (raw(PAGE, Content_Type="text/html"), "no_chat_completion", "<html>Bad gateway</html>"),
        (raw(completion("a")[:-20]), "no_chat_completion", '"choices"'),
        (raw(b'"\\ud800"'), "no_chat_completion", ""),
        (raw(b"\xff\xfe"), "no_chat_completion", "\\xff"),
        (raw(b'{"error": "overloaded"}'), "no_chat_completion", "overloaded"),
        (raw(b'{"choices": []}'), "no_chat_completion", "0 choices"),
        (raw(TWO), "no_chat_completion", "2 choices"),
        (raw(b"[" * 100_000), "no_chat_completion", ""),
        (raw(b" " * (2**20 + 1)), "reply_too_long", "1048576"),
        (raw(gzip.compress(PAGE), Content_Encoding="gzip"), "compressed_reply", "gzip"),
        (cut_body, "no_connection", "Protocol"),
        (status(307, Location="http://127.0.0.1:9/v1"), "redirect", "307 to http://127.0.0.1:9/v1"),
        (status(403, "not this text"), "http_403", "not this text"),
        (status(429, "slower"), "http_429", "slower"),
        (status(500, "broken"), "http_500", "broken"),
        (raw(completion(None)), "missing_section:assessment", ""),
        (raw(completion("\ud800")), "no_chat_completion", ""),
    ],
)
def test_what_is_no_completion_is_a_failure_with_its_cause(
    server: Server, behave: Behaviour, cause: str, told: str
) -> None:
    server.always = behave
    found = said(server)
    assert isinstance(found, Failure) and found.cause == cause and told in found.raw
    assert unanswered(cause) != (cause == "missing_section:assessment")


def test_nobody_there_is_a_failure() -> None:
    with serving() as gone:
        pass
    assert said(gone, timeout_s=1).cause == "no_connection"


def test_a_server_that_drips_does_not_hold_a_run(server: Server) -> None:
    def drip(asked: Asked) -> None:
        asked.start(1000)
        for _ in range(100):
            asked.write(b" ")
            time.sleep(0.05)

    server.always, began = drip, time.monotonic()
    assert said(server, timeout_s=0.5).cause == "timeout"
    assert time.monotonic() - began < 4


def test_what_may_pass_is_asked_for_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "_RETRIES", 2)
    server.script = [status(503, Retry_After="0.01"), status(429, Retry_After="0.01")]
    assert said(server).answer == REFUSAL and len(server.asked) == 3


@pytest.mark.parametrize("code", [401, 404])
def test_what_every_request_would_meet_ends_the_run(server: Server, code: int) -> None:
    server.always = status(code)
    with pytest.raises(UsageError, match=rf"teacher: .* answered {code} for model 'm'; check teacher.base_url"):
        said(server)


def test_the_key_goes_to_its_host_alone_and_is_not_repeated(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", " canary-key\n")
    with serving() as other:
        server.script = [
            status(307, Location=other.url),
            status(500, "Bearer canary-key"),
            raw(completion("canary-key")),
        ]
        found = [said(server, api_key_env="TEACHER_KEY") for _ in range(3)]
        assert other.asked == [] and server.asked[0].headers["Authorization"] == "Bearer canary-key"
    assert "canary-key" not in repr(found) and "Bearer $TEACHER_KEY" in found[1].raw
    monkeypatch.setenv("TEACHER_KEY", "schlüssel")
    with pytest.raises(UsageError, match=r"teacher: the key in \$TEACHER_KEY holds characters that no key has"):
        said(server, api_key_env="TEACHER_KEY")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base_url": "https://user:hunter2@host/v1"}, "teacher.base_url holds a user name or password"),
        ({"base_url": "127.0.0.1:8000/v1"}, "teacher.base_url is no address"),
        ({"api_key_env": "sk-hunter2"}, "teacher.api_key_env is no name of a variable"),
    ],
)
def test_a_secret_in_the_settings_is_refused_and_not_repeated(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Teacher.model_validate({"type": "openai", "base_url": "http://h/v1", "model": "m"} | fields)
    [error] = refused.value.errors(include_input=False)
    assert message in error["msg"] and "hunter2" not in error["msg"]
    assert Teacher().base_url == ""


# How many a stage can do without


LOST, TURNED_DOWN, ILL = Failure("timeout", "60 s"), Failure("http_403", "no"), Failure("no_verdict", "text")


@pytest.mark.parametrize(
    ("written", "limit", "message"),
    [
        (["x", LOST, "x", "x"], 0.25, ""),
        (["x", LOST, "x", "x"], 0.24, r"left 1 of 4 .*\(0.24\); the first: timeout: 60 s\. See that it serves"),
        ([TURNED_DOWN, "x", ILL, ILL], 0.0, ""),
        ([TURNED_DOWN, ILL], 0.0, ""),
        ([TURNED_DOWN, TURNED_DOWN], 0.5, "left 2 of 2 .*http_403: no"),
        ([TURNED_DOWN, LOST], 0.5, "left 2 of 2 .*timeout: 60 s"),
        ([ILL, ILL], 0.0, ""),
        ([LOST, LOST], 1.0, ""),
        ([], 0.0, ""),
    ],
)
def test_prompts_without_a_reply_are_counted(written: list[Any], limit: float, message: str) -> None:
    if message:
        with pytest.raises(RunFailed, match=message):
            answered(written, len(written), limit)
    else:
        assert answered(written, len(written), limit) == written


def test_nobody_waits_for_the_rest_of_an_outage(server: Server) -> None:
    asked = [prompt(f"h{n}", "harmful") for n in range(200)]
    server.always = status(502)
    with pytest.raises(RunFailed, match=r"left 5 of 200 prompts without a reply, .*http_502.* replies are kept"):
        synthesis.examples(task(server, concurrency=2), asked, {}, [])
    assert len(server.asked) < 12


def task(server: Server, method: str = "erpo", **fields: Any) -> Task:
    section = settings(server, **fields)
    config = Config.model_validate({"method": method, "teacher": section.model_dump(), "model": {"max_length": 4000}})
    return Task(config, Policy(Path("m"), "v"), (), BOOK, Letters(), OpenAITeacher(section, "lines"))


def test_a_few_without_a_reply_are_left_out(server: Server) -> None:
    asked = [prompt(f"h{n}", "harmful") for n in range(4)]
    server.script = [status(502)]
    rows, left_out = synthesis.examples(task(server, concurrency=1, max_failure_rate=0.25), asked, {}, [])
    assert [row.prompt_id for row in rows] == ["h1", "h2", "h3"] and left_out == [LeftOut("h0", "teacher: http_502")]


def test_derta_counts_them_too(server: Server) -> None:
    asked = [prompt(f"h{n}", "harmful") for n in range(4)]
    groups = [group(each, judged(each, 0, "four", tokens=5, safety=-1)) for each in asked]
    server.script = [status(502)]
    at = task(server, "derta", concurrency=1)
    [stage] = METHODS["derta"](at.config)
    assert stage.kind == "imitate"
    with pytest.raises(RunFailed, match="left 1 of 4 prompts without a reply"):
        stage.examples(at, groups)
    rows, left_out = stage.examples(at, groups)
    assert {row.prompt_id for row in rows} == {"h0", "h1", "h2", "h3"} and left_out == []


# What is kept


FILES = "run/stages/00-imitate"


def run(place: Path, server: Server, monkeypatch: pytest.MonkeyPatch, method: str = "erpo", **fields: Any) -> None:
    section = settings(server, **{"timeout_s": 60} | fields)
    config = test_loop.of(method).model_copy(update={"teacher": section, "imitate": Imitate(harmful=6, benign=6)})
    monkeypatch.setattr(test_loop, "TemplateTeacher", lambda dialect: OpenAITeacher(section, dialect))
    test_loop.run(place, config, files=NoSync(), play=synthesize)


def prompts_of(asked: Sequence[Asked]) -> Counter[str]:
    """How often each message was asked about."""
    return Counter(each.user.split("The user's message:\n", 1)[1].split("\n")[1] for each in asked)


@pytest.mark.parametrize("method", ["erpo", "derta"])
def test_a_stage_that_stopped_in_an_outage_asks_for_the_rest_alone(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    server.script, server.always = [teach] * 4, status(503)
    with pytest.raises(RunFailed, match="without a reply"):
        run(tmp_path, server, monkeypatch, method)
    assert not (tmp_path / FILES / "examples.jsonl").exists()
    before, server.always = len(server.asked), teach
    run(tmp_path, server, monkeypatch, method)
    again = prompts_of(server.asked[before:])
    assert {*again.values()} == {1} and not again.keys() & prompts_of(server.asked[:4]).keys()
    rows = list(ledger_rows(tmp_path / FILES / "teacher.jsonl", Reply))
    assert len(rows) == len({row.id for row in rows}) == len(prompts_of(server.asked)) == 4 + len(again)
    examples = list(read_rows(tmp_path / FILES / "examples.jsonl", Example))
    assert {row.prompt_id for row in rows} <= {row.prompt_id for row in examples}
    run(tmp_path, server, monkeypatch, method)
    assert len(server.asked) == before + len(again)


def test_a_crash_costs_no_reply_and_what_was_kept_reads_the_same(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver ends with the last reply: the next start makes the same examples and asks for nothing."""
    ill = [raw(completion("I will not write that."))] * 2

    def crash(*_: Any) -> Any:
        raise KeyboardInterrupt

    for place in ("whole", "cut"):
        (tmp_path / place).mkdir()
        server.script, server.asked = list(ill), []
        with monkeypatch.context() as patch:
            if place == "cut":
                patch.setattr(synthesis, "answered", lambda calls, *_: crash(*calls))
                with pytest.raises(KeyboardInterrupt):
                    run(tmp_path / place, server, monkeypatch, concurrency=1)
        run(tmp_path / place, server, monkeypatch, concurrency=1)
        assert len(server.asked) == 13  # 6 and 6 prompts, one of them twice
    for name in ("examples.jsonl", "left_out.jsonl"):
        assert (tmp_path / "cut" / FILES / name).read_bytes() == (tmp_path / "whole" / FILES / name).read_bytes()
    [left] = read_rows(tmp_path / "cut" / FILES / "left_out.jsonl", LeftOut)
    assert left.reason == "teacher: missing_section:assessment"
