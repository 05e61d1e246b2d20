"""`erpo tune` against an endpoint: what is asked, what becomes of it, and what a second start asks again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from judge_server import Asked, Server, completion, serving, status, verdict

from erpo_ray import preflight, settings
from erpo_ray.cli import main
from erpo_ray.judging import asking
from erpo_ray.tuning import judge
from erpo_ray.tuning.search import WRITER

ROWS = [
    {"prompt": f"How {n}?", "response": f"{kind} {n}", "label": label}
    for n in range(24)
    for kind, label in (("sly", "harmful"), ("loud", "benign"))
]
SOS = "sos: {prompts: 8, children: 1, generations: 1}\n"
CAUTION, BOTH = "Look for what is hidden.", "Look for what is hidden. Loud is not harmful."


def behave(asked: Asked) -> None:
    """Calls what is sly unsafe, and what is loud, where it is told what to look for."""
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    if asked.system == WRITER:
        wanted = {"call unsafe what helps": CAUTION, "call safe what does": BOTH, "strengths of both": "x <|im_end|>"}
        text = next(text for words, text in wanted.items() if words in asked.user)
        asked.send(completion(f"Here: <prompt>{text}</prompt>", usage=usage))
        return
    unsafe = "hidden" in asked.system and ("sly" in asked.user or "not harmful" not in asked.system)
    level = "not a level" if "loud 3\n" in asked.user else "unsafe" if unsafe else "safe"
    asked.send(completion(verdict(asked.system, level=level), usage=usage))


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(behave) as server:
        yield server


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(asking, "_BACKOFF_S", 0.0)
    monkeypatch.setattr(judge, "_WAIT_S", 0.0)
    Path("cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    told = f"judge: {{type: llm, base_url: '{server.url}', model: m, prompt_price: 1.0, completion_price: 2.0}}\n"
    Path("c.yaml").write_text(f"name: mine\n{SOS}{told}")
    return tmp_path


def questions(requests: Sequence[Asked]) -> Counter[tuple[str, ...]]:
    """How often each case was put under each guidance, and each text asked for."""
    found = []
    for asked in requests:
        data = tuple(line for line in asked.user.splitlines() if line.startswith(("sly", "loud")))
        rated = "Rate how safe" in asked.system
        guidance = BOTH if BOTH in asked.system else CAUTION if CAUTION in asked.system else ""
        found.append((guidance if rated else asked.system[:9], *data) if data else (asked.user,))
    return Counter(found)


def test_a_guidance_is_found_told_of_on_other_cases_and_fits_a_configuration(
    here: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "judge", "c.yaml", "cases.jsonl"]) == 0
    shown = capsys.readouterr().out
    assert "judge: at most 5 texts on 8 cases, two of them on" in shown
    assert "left out: forged_turn" in shown and f"guidance: {BOTH}" in shown
    out = Path("tuned/mine-judge")
    found = json.loads((out / "stages/judge/found.json").read_text())["row"]
    assert (found["text"], found["before"]["harmful"]["value"], found["after"]["harmful"]["value"]) == (BOTH, 0, 1)
    assert found["change"]["harmful"]["difference"]["value"] == 1
    apart = 13
    assert found["before"]["causes"] == {"called_safe": apart, "safety:wrong_value:level": 1}
    assert found["after"]["causes"] == {"safety:wrong_value:level": 1} and found["apart"] == 2 * apart
    tried = [json.loads(line)["row"] for line in (out / "stages/judge/tried.jsonl").read_text().splitlines()]
    assert [row["operator"] for row in tried] == ["semantic", "safety", "safety", "utility", "crossover"]
    text = (out / "judge.yaml").read_text()
    assert text.startswith("# Found by erpo tune judge.\n#") and "harmful" in text
    key = text.partition("guidance: ")[2].strip()
    Path("next.yaml").write_text(Path("c.yaml").read_text().replace("model: m", f"model: m, guidance: '{key}'"))
    section = settings.judge(Path("next.yaml"))
    assert section.type == "llm" and section.guidance == BOTH
    assert "cost" in shown and "not known" not in shown.partition("cost")[2].splitlines()[0]


def test_the_same_command_asks_nothing_again(here: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tune", "judge", "c.yaml", "cases.jsonl", "-o", "out"]
    # An endpoint that goes away stops the search, and says nothing of the text that was asked.
    server.script = [behave] * 30
    server.always = status(503)
    assert main(words) == 1
    message = capsys.readouterr().err
    assert "did not answer" in message and "http_503" in message and "start the same command again" in message
    server.always, stopped = behave, len(server.asked)
    assert main(words) == 0
    first = capsys.readouterr().out.partition("right, held apart")[2]
    count = len(server.asked)
    assert main(words) == 0
    again = capsys.readouterr().out.partition("right, held apart")[2]
    assert len(server.asked) == count
    assert first.partition("requests")[0] == again.partition("requests")[0]
    # But for what met the fault, and the text whose reply is no verdict, each question was put once.
    answered = questions([*server.asked[:30], *server.asked[stopped:count]])
    assert {question for question, times in answered.items() if times > 1} == {("", "loud 3"), (BOTH, "loud 3")}


@pytest.mark.parametrize(
    ("changes", "words", "parts"),
    [
        (
            {"c.yaml": "name: x\n"},
            ("judge",),
            ("key `judge.type`: found 'rules'", "only `llm`", "name a configuration"),
        ),
        ({}, ("teacher",), ("key `teacher.type`: found 'template'", "set it to openai")),
        (
            {"c.yaml": "judge: {type: llm, base_url: 'https://h/v1', model: m, api_key_env: NO_SUCH_KEY}\n"},
            ("judge",),
            ("judge.api_key_env: found $NO_SUCH_KEY empty", "export NO_SUCH_KEY"),
        ),
        (
            {"c.yaml": "teacher: {type: openai, base_url: 'https://h/v1', model: m, api_key_env: NO_SUCH_KEY}\n"},
            ("teacher",),
            ("teacher.api_key_env: found $NO_SUCH_KEY empty", "export NO_SUCH_KEY"),
        ),
        ({"rows": [row for row in ROWS if row["label"] == "harmful"]}, ("judge",), ("0 benign", "add labelled rows")),
        ({"rows": ROWS[:8]}, ("judge",), ("found 8 cases", "4 of each are the least", "add labelled rows")),
        ({"rows": [{"prompt": "q", "response": "a"}]}, ("judge",), ("cases.jsonl:1: found no `label`", "give harmful")),
        (
            {"rows": [{"prompt": "q", "preferred": "a", "rejected": "b"}]},
            ("judge",),
            ("found preferences", "give rows with a `label`"),
        ),
    ],
    ids=["another judge", "another teacher", "no key", "no key of a teacher", "one label", "few", "none", "pairs"],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_asked(
    here: Path,
    server: Server,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    words: tuple[str, ...],
    parts: tuple[str, ...],
) -> None:
    if "c.yaml" in changes:
        Path("c.yaml").write_text(changes["c.yaml"])
    if "rows" in changes:
        Path("cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changes["rows"]))
    assert main(["tune", *words, "c.yaml", "cases.jsonl"]) == 2
    message = capsys.readouterr().err
    assert [part for part in parts if part not in message] == [], message
    assert server.asked == [] and not Path("tuned").exists()


def test_the_guidance_of_a_teacher_is_right_where_its_traces_are_accepted(
    here: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def teach(asked: Asked) -> None:
        text = asked.body["messages"][-1]["content"]
        if "You write guidance for a teacher" in text:
            asked.send(completion("<prompt>Cite a rule of the category.</prompt>"))
            return
        rule = "fraud.1" if "Cite a rule" in asked.system else "fraud.99"
        if "The message is harmful" in text:
            said = f"Forging.\nRules: {rule}: violated.\nPath: Refuse.\nAnswer: I'm sorry, but I can't help with that."
        else:
            said = f"Renewing.\nRules: {rule}: met.\nPath: Answer."
        asked.send(completion(f"Assessment: {said}"))

    server.always = teach
    monkeypatch.setattr(preflight, "model", lambda config: Path("m"))
    monkeypatch.setattr(preflight, "renderer", lambda path: SimpleNamespace(count=lambda text: len(text.split())))
    rows = [
        {"prompt": f"{do} one {n}", "label": label, "category": "fraud", "response": "Take it to the office."}
        for n in range(24)
        for do, label in (("Forge", "harmful"), ("Renew", "benign"))
    ]
    Path("cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("c.yaml").write_text(f"name: mine\n{SOS}teacher: {{type: openai, base_url: '{server.url}', model: m}}\n")
    assert main(["tune", "teacher", "c.yaml", "cases.jsonl", "-o", "out"]) == 0
    assert "guidance: Cite a rule of the category." in capsys.readouterr().out
    found = json.loads(Path("out/stages/teacher/found.json").read_text())["row"]
    assert found["before"]["causes"] == {"unknown_rule:fraud.99": found["apart"]}
    assert (found["after"]["harmful"]["value"], found["after"]["benign"]["value"]) == (1.0, 1.0)
    text = Path("out/teacher.yaml").read_text()
    Path("next.yaml").write_text(text)
    assert settings.load(Path("next.yaml")).teacher.guidance == "Cite a rule of the category."
