"""Attacks on what a run reads, writes and prints: data that would run, escape, leak or be believed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from fakes import Rote
from judge_server import Asked, completion, serving
from loop_driver import BOOK
from pyarrow import parquet
from rundir_driver import NoSync
from test_loop import CONFIG, run

from erpo_ray.commands.run import default_dir
from erpo_ray.config import Config, Rules
from erpo_ray.config.judges import JudgeLLM
from erpo_ray.engines.judges import Bench, judge_of
from erpo_ray.errors import RunFailed, UsageError
from erpo_ray.judging import asking
from erpo_ray.prompts import files
from erpo_ray.rundir.files import Files, inside
from erpo_ray.terminal import clean, say

ROOT = Path(__file__).parents[2]


class Hostile(pyarrow.ExtensionType):
    """A column type whose reading runs code, as Ray Data's once did."""

    fired = 0

    def __init__(self) -> None:
        super().__init__(pyarrow.string(), "hostile.type")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"payload"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: object, payload: bytes) -> Hostile:
        cls.fired += 1
        return cls()


def test_a_column_of_a_type_that_runs_code_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    pyarrow.register_extension_type(Hostile())
    try:
        column = pyarrow.ExtensionArray.from_storage(Hostile(), pyarrow.array(["hi"]))
        parquet.write_table(pyarrow.table({"prompt": column}), path)
        Hostile.fired = 0
        with pytest.raises(UsageError, match=f"{path}: found a column of an extension type; write plain columns"):
            list(files.read_file(path))
        assert Hostile.fired == 0
        parquet.read_table(path)
        assert Hostile.fired > 0
    finally:
        pyarrow.unregister_extension_type("hostile.type")


NAMES = [
    start + name
    for start in ("", "a/", "./", "../", "../../", "/", "//", "~/", "%2e%2e/", "..\\", "\x00", "C:")
    for name in ("..", ".", "x/../../y", ".hidden", "/etc/cron.d/x")
]


@pytest.mark.parametrize("make", [inside, lambda folder, name: default_dir(Config(name=name))])
def test_no_name_leads_out_of_its_folder(tmp_path: Path, make: Callable[[Path, str], Path]) -> None:
    """Refused, or a name right inside the folder."""
    assert len(NAMES) == 60
    refused = 0
    for name in NAMES:
        try:
            found = make(tmp_path, name)
        except (UsageError, ValueError):
            refused += 1
            continue
        assert Path(os.path.normpath(found)).parent == (tmp_path if make is inside else Path("runs")), name
    assert refused > 50


def test_links_in_a_run_directory_are_not_followed_when_it_is_cleared(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    (tmp_path / "link").symlink_to(outside)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(outside)
    Files().remove(tmp_path / "link")
    Files().remove(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert [path.name for path in outside.iterdir()] == ["kept"]


ESCAPES = [
    f"{before}{sequence}{after}"
    for before, after in (("", ""), ("ok ", " ok"))
    for sequence in (
        "\x1b[2J", "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\", "\x1b[31m", "\x1bP1$r\x1b\\", "\x9b31m", "\x9d0;x\x9c",
        "\x07", "\x08" * 20, "\r" + "erpo: all is well", "\x0b", "\x0c", "\x00", "\x7f", "\x85", "\u2028", "\u2029",
        "\u202e", "\u2066", "\u200f", "\u061c", "\x1b[?1049h", "\x1b[6n", "\x1bc", "\ud800",
    )
]  # fmt: skip


def test_text_of_others_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(ESCAPES) == 50
    for text in ESCAPES:
        say(text)
    shown = capsys.readouterr().out
    assert not re.search(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\u200e\u200f\u061c\ud800-\udfff]", shown
    )
    assert shown.count("\n") == len(ESCAPES) and clean("a\tb\nc") == "a\tb\nc"


CANARIES = {name: f"canary-{number}-{name.lower()}" for number, name in enumerate(
    ("OPENAI_API_KEY", "JUDGE_KEY", "HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY")
)}  # fmt: skip
IN_URL = "canary-in-url"


def test_no_secret_is_written_or_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A judge that fails and repeats what it was sent; keys in the environment, a password in a URL."""
    monkeypatch.setattr(asking, "_BACKOFF_S", 0.0)
    for name, secret in CANARIES.items():
        monkeypatch.setenv(name, secret)

    def telling(asked: Asked) -> None:
        said = f"no access: {dict(asked.headers)}"
        asked.send(*((said.encode(), 403) if len(asked.user) % 2 else (completion(said), 200)))

    config = CONFIG.model_copy(update={"rules": Rules(path=f"http://me:{IN_URL}@127.0.0.1:9/rules.yaml")})
    with serving(telling) as server:
        judge = JudgeLLM(base_url=server.url, model="m", api_key_env="JUDGE_KEY", retry_budget=0, max_failure_rate=0)
        backend = Rote(config, BOOK)
        backend._judge = judge_of(judge, Bench(BOOK, "lines"))
        with pytest.raises(RunFailed) as failed:
            run(tmp_path, config.model_copy(update={"judge": judge}), backend, files=NoSync())
        assert server.asked and all(CANARIES["JUDGE_KEY"] in asked.headers["Authorization"] for asked in server.asked)
    shown = capfd.readouterr()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    told = written + (shown.out + shown.err + str(failed.value)).encode()
    assert b"no access" in told
    assert [secret for secret in (*CANARIES.values(), IN_URL) if secret.encode() in told] == []


LOCKS = ["lock-cpu.txt", "lock-gpu.txt", "lock-test.txt", "carrier.txt"]


@pytest.mark.parametrize("name", LOCKS)
def test_every_pin_of_a_lock_has_its_hashes(name: str) -> None:
    """pip then refuses whatever else an index serves under that version."""
    text = re.sub(r"\\\n", " ", (ROOT / "requirements" / name).read_text())
    pins = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert pins and [line[:60] for line in pins if not re.match(r"\S+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)] == []


def test_an_altered_wheel_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "nothing-1.0-py3-none-any.whl"
    wheel.write_bytes(b"PK")
    (tmp_path / "lock.txt").write_text(f"nothing==1.0 --hash=sha256:{'0' * 64}\n")
    pip = [sys.executable, "-m", "pip", "download", "--no-index", "--find-links", str(tmp_path), "--no-deps"]
    done = subprocess.run(
        [*pip, "-r", str(tmp_path / "lock.txt"), "-d", str(tmp_path / "out")], capture_output=True, text=True
    )
    assert done.returncode != 0 and "DO NOT MATCH THE HASHES" in done.stderr


EXPLAINED = re.compile(
    r"distutils-precedence\.pth|__editable__\.erpo_ray.*\.pth|_?(virtualenv|erpo).*\.pth|matplotlib.*\.pth"
)


def test_nothing_runs_when_the_interpreter_starts() -> None:
    """A .pth file runs code at every start: each of the environment is one that is known."""
    found = [path.name for path in Path(sysconfig.get_path("purelib")).glob("*.pth")]
    assert [name for name in found if not EXPLAINED.fullmatch(name)] == []


def test_no_guard_is_an_assert(tmp_path: Path) -> None:
    """Under `python -O`, which drops asserts, damage, names and hostile models are refused just the same."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    program = """
import sys
from pathlib import Path
from erpo_ray.engines import vetting
from erpo_ray.errors import UsageError
from erpo_ray.rundir.files import inside
from erpo_ray.rundir.lines import artefact, read_rows
from erpo_ray.types import LeftOut
caught = 0
Path("rows.jsonl").write_bytes(artefact([b'{"id":"a","reason":"b"}']).replace(b'"a"', b'"x"'))
Path("model").mkdir()
for act in (
    lambda: list(read_rows(Path("rows.jsonl"), LeftOut)),
    lambda: inside(Path("a"), "../b"),
    lambda: vetting.check(Path("model"), "model.path"),
):
    try:
        act()
    except (UsageError, ValueError):
        caught += 1
print(caught, sys.flags.optimize)
"""
    done = subprocess.run([sys.executable, "-O", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["3", "1"], done.stderr


def test_every_locked_package_has_its_licence_listed() -> None:
    sys.path.append(str(ROOT / "requirements"))
    import licences

    page = (ROOT / "requirements" / "licences.md").read_text()
    listed = dict(re.findall(r"^\| ([\w.-]+) \| ([^ |]+) \| [^|]+ \|$", page, re.MULTILINE))
    del listed["package"], listed["---"]
    assert listed == dict(licences.pins()) and len(listed) > 200
    assert "not installed" not in page.partition("| ---")[2]
