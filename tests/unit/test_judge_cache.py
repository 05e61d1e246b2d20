"""Verdicts on disk: found by content, shared by processes, and never anything but a verdict."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from erpo_ray.errors import UsageError
from erpo_ray.judging.cache import Cache, key
from erpo_ray.judging.replies import Form

FORM = Form("safety", (("level", ("safe", "unsafe")),))
ROOT = Path(__file__).parents[2]


def test_what_is_put_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "verdicts.sqlite"
    cache = Cache(path)
    assert cache.get(key("llm", "m", "x"), FORM) is None
    cache.put(key("llm", "m", "x"), {"level": "safe"})
    cache.put(key("llm", "m", "x"), {"level": "unsafe"})
    assert cache.get(key("llm", "m", "x"), FORM) == {"level": "safe"}
    cache.close()
    assert Cache(path).get(key("llm", "m", "x"), FORM) == {"level": "safe"}


def test_different_parts_make_different_keys() -> None:
    keys = {key("a", "b"), key("ab"), key("a", "b", ""), key("a,b"), key('a", "b'), key("b", "a")}
    assert len(keys) == 6 and key("a", "b") == key("a", "b")
    assert key("llm") == sha256(b'["llm"]').hexdigest()


WORKER = """
import sys
from pathlib import Path
from erpo_ray.judging.cache import Cache, key
cache = Cache(Path(sys.argv[1]))
for n in range(150):
    cache.put(key("shared", str(n)), {"level": "safe" if int(sys.argv[2]) % 2 else "unsafe"})
    cache.put(key(sys.argv[2], str(n)), {"level": "safe"})
"""


def test_several_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.sqlite"
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(path), str(n)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for n in range(4)
    ]
    assert [(worker.communicate(timeout=120)[1], worker.returncode) for worker in workers] == [("", 0)] * 4
    cache = Cache(path)
    for n in range(150):
        assert cache.get(key("shared", str(n)), FORM) in ({"level": "safe"}, {"level": "unsafe"})
        assert all(cache.get(key(str(worker), str(n)), FORM) == {"level": "safe"} for worker in range(4))


@pytest.mark.parametrize("row", ["{", "5", "null", '{"level": "great"}', '{"level": "safe", "score": 1}', "{}"])
def test_a_row_that_is_no_verdict_is_an_error_and_no_score(tmp_path: Path, row: str) -> None:
    path = tmp_path / "verdicts.sqlite"
    Cache(path).close()
    with sqlite3.connect(path) as file:
        file.execute("INSERT INTO verdicts VALUES ('k', ?)", (row,))
    with pytest.raises(UsageError, match=r"verdicts.sqlite: no usable cache of verdicts .* delete this one"):
        Cache(path).get("k", FORM)


def test_a_file_that_is_something_else_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes " * 100)
    with pytest.raises(UsageError, match=r"notes.txt: no usable cache of verdicts"):
        Cache(path)
    assert path.read_text() == "my notes " * 100
    with pytest.raises(UsageError, match="no usable cache"):
        Cache(path / "inside")
