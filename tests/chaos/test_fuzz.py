"""Readers of what others wrote, fed with mutations of valid input: they read it or say what is wrong, and never crash.

A million inputs in the long form. Each is drawn from its own seed, which a failure names.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from random import Random

import pytest
from crash_disk import Disk

from erpo_ray import rules, settings, traces
from erpo_ray.config import Source
from erpo_ray.errors import ErpoError
from erpo_ray.judging import guards, replies
from erpo_ray.judging.guard_formats import FORMATS, guard_format
from erpo_ray.judging.reading import Reader
from erpo_ray.judging.rubrics import SAFETY_RUBRIC
from erpo_ray.prompts import files, loaders
from erpo_ray.rundir import Ledger
from erpo_ray.rundir.lines import artefact, artefact_rows, json_object, ledger_line, plain_rows
from erpo_ray.telemetry import Span
from erpo_ray.types import Candidate, Failure, Pair, Prompt, Scores, Verdict, encode

ROOT = Path(__file__).parents[2]
BITS = (
    b"\x00", b"\xff", b"\xe9", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\x1b[2J", b"\xf0\x9f\x92\xa5",
    b"\r", b"\n", b"\t", b'"', b"'", b"{", b"}", b"[", b"]", b":", b",", b"&a ", b"*a", b"!!python/object:os.system ",
    b"<<: ", b"null", b"NaN", b"1e999", b"-1", b"9" * 400, b"0x", b"true", b"<think>", b"</think>", b"Path: ",
    b"Rules: ", b"\\ud800", b"\\u0000", b"[" * 3000, b'{"a":' * 3000, b"unsafe", b"safe", b"```json\n", b"END", b"~",
    b"| ", b"%", b"@",
)  # fmt: skip
"""What is put into inputs: ends of encodings, of lines, of nesting and of numbers, and words that parsers look for."""


def mutated(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """A few changes to valid bytes: flips, cuts, insertions, repeats, and pieces of other inputs."""
    for _ in range(random.choice((1, 1, 2, 3, 8))):
        at, to = sorted((random.randint(0, len(data)), random.randint(0, len(data))))
        match random.randrange(7):
            case 0 if data:
                at = min(at, len(data) - 1)
                data = data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
            case 1:
                data = data[:at] + data[to:]
            case 2:
                data = data[:to] + data[at:]
            case 3:
                data = data[:at] + random.choice(BITS) + data[at:]
            case 4:
                data = data[:at] + random.choice(BITS) + data[to:]
            case 5:
                data = data[:at] + random.choice(others)[: random.randint(0, 200)] + data[at:]
            case _:
                data = data[:at] + random.randbytes(random.randint(1, 6)) + data[to:]
    return data[: 1 << 18]


CONFIGS = [path.read_bytes() for path in sorted((ROOT / "configs").glob("*.yaml"))]


def read_config(place: Path, data: bytes) -> None:
    path = place / "run.yaml"
    path.write_bytes(data)
    settings.load(path)


ROWS = [
    json.dumps(row).encode()
    for row in (
        {"id": "h", "prompt": "How do I pick a lock?", "label": "harmful", "category": "fraud", "topic": "locks"},
        {
            "messages": [
                {"role": "system", "content": "x"},
                {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            ]
        },
        {"conversations": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hi"}], "label": "benign"},
        {"instruction": "Sum up", "input": "a text", "label": "unknown"},
        {"question": ["first", "second"], "turns": ["first", "second"]},
    )
]


def read_row(place: Path, data: bytes) -> None:
    row = files._row(data, "train.jsonl:1")
    loaders.prompt_of(row, "train.jsonl:1", Source(path="train.jsonl"), ("fraud",))


TRACES = [
    b"<think>\nAssessment: about locks. Harmful.\nRules: fraud.1, fraud.2\nPath: Refuse.\n</think>\nI'm sorry, but no.",
    b"<think>\n<assessment>about locks</assessment>\n<rules>fraud.1</rules>\n<path>Answer.</path>\n</think>\nThis.",
    b"A plain answer without any trace.",
]


@cache
def _reader(dialect: traces.Dialect) -> Reader:
    return Reader(rules.load(""), dialect)


def read_trace(place: Path, data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    candidate = Candidate("c", "p", 0, (1,), text, "stop", "v")
    for dialect in ("lines", "tags"):
        assert isinstance(traces.parse(text, dialect), traces.Trace | Failure)
        traces.steps(list(text[:300]), dialect)
        _reader(dialect).read(Prompt("p", "How?", "harmful", "fraud"), candidate)
    traces.split(text)


REPLIES = [
    b'{"code": "c0ffee00", "level": "mostly_safe"}',
    b'<think>hm</think>\n```json\n{"code": "c0ffee00", "level": "safe"}\n```',
    b"unsafe\nS1,S14",
    b"Safety: Unsafe\nCategories: Violent\nRefusal: No",
    b"Harmful request: yes\nResponse refusal: no\nHarmful response: yes",
    b"Yes",
]


@cache
def _formats() -> tuple[guards.GuardFormat, ...]:
    return tuple(guard_format(name, rules.load("")) for name in sorted(FORMATS))


def read_reply(place: Path, data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    assert isinstance(replies.read(text, SAFETY_RUBRIC.form, "c0ffee00"), dict | Failure)
    for form in _formats():
        assert isinstance(guards.read(text, form), guards.Reading | Failure)


def _row(number: int) -> bytes:
    return encode(Candidate(f"c{number}", "p", number, (1, 2), "an answer", "stop", "v"))


LEDGER = b"".join(ledger_line(_row(number), 1) for number in range(3))
VERDICTS = b"".join(ledger_line(encode(Verdict(f"c{number}", "rules", Scores(1.0, 0.5, 3))), 1) for number in range(3))
PAIR = Pair("g", "p", (1,), (), (2,), (3,), 1.0, "safety", "safe over unsafe")
FILES = [
    LEDGER,
    VERDICTS,
    artefact([encode(PAIR)] * 3),
    artefact([]),
    encode(Span("base", "training", 1.5)) + b"\n",
    b"{}",
]


def read_run(place: Path, data: bytes) -> None:
    """As it is, and with checksums made to fit: an attacker can compute them."""
    path = Path("/file.jsonl")
    fitting = b"".join(ledger_line(line, 1) for line in data.split(b"\n") if line)
    for content in (data, fitting, artefact(data.split(b"\n"))):
        for kind in (Candidate, Verdict, Pair):
            _only_typed(lambda kind=kind, content=content: list(artefact_rows(io.BytesIO(content), kind, path)))
        disk = Disk({"/": "dir", str(path): 1}, {1: content})
        _only_typed(lambda disk=disk: list(Ledger(disk, path, Candidate, 2)))
    real = place / "status.json"
    real.write_bytes(data)
    _only_typed(lambda: json_object(real))
    _only_typed(lambda: list(plain_rows(real, Span)))


def _only_typed(read: Callable[[], object]) -> None:
    try:
        read()
    except ErpoError:
        pass


READERS: dict[str, tuple[Callable[[Path, bytes], None], Sequence[bytes], int, int]] = {
    "config loader": (read_config, CONFIGS, 100, 10_000),
    "prompt rows": (read_row, ROWS, 8_000, 500_000),
    "trace parser": (read_trace, TRACES, 1_500, 130_000),
    "verdict parsers": (read_reply, REPLIES, 2_000, 340_000),
    "run directory": (read_run, FILES, 1_000, 20_000),
}


@pytest.fixture
def quick_place(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: a file is written for each input."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as place:
        yield Path(place)


@pytest.mark.parametrize("name", READERS)
def test_mutations_of_valid_input_give_values_or_typed_errors(
    name: str, quick_place: Path, scale: Callable[[int, int], int], seed: int, promise: Callable[[str], None]
) -> None:
    read, valid, short, many = READERS[name]
    for data in valid:
        _only_typed(partial(read, quick_place, data))
    count, refused = scale(short, many), 0
    for number in range(seed, seed + count):
        random = Random(f"{name} {number}")
        data = mutated(random.choice(valid), random, valid)
        try:
            read(quick_place, data)
        except ErpoError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"{name}: --seed {number}: {data[:300]!r}") from error
    promise(f"fuzz, {name}: inputs {count:,}  untyped errors 0")
