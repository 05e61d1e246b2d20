"""Checksummed lines: artefacts and ledgers, whole, torn and damaged."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erpo_ray.errors import UsageError
from erpo_ray.rundir import Files, Ledger, read_rows
from erpo_ray.rundir.lines import artefact, artefact_rows, ledger_line, verify
from erpo_ray.types import Candidate, LeftOut, Verdict, encode


def candidate(key: str, text: str = "hello") -> Candidate:
    return Candidate(key, "p", 0, (1, 2), text, "stop", "v")


ROWS = [LeftOut("a", "no verdict"), LeftOut("b", "ünclear\u2028"), LeftOut("c", "")]


def test_lines_are_plain_json() -> None:
    assert json.loads(ledger_line(b'{"id":"a"}', 3)) == {"crc": "55293d13", "epoch": 3, "row": {"id": "a"}}
    whole = artefact([encode(row) for row in ROWS]).splitlines()
    assert [json.loads(line)["row"]["id"] for line in whole] == ["a", "b", "c"]
    assert [json.loads(line)["of"] for line in whole] == [3, 3, 3]


@given(st.lists(st.builds(LeftOut, st.text(), st.text())))
@settings(max_examples=50)
def test_an_artefact_gives_back_its_rows(rows: list[LeftOut]) -> None:
    stream = io.BytesIO(artefact([encode(row) for row in rows]))
    assert list(artefact_rows(stream, LeftOut, Path("rows.jsonl"))) == rows


def test_every_damage_to_an_artefact_is_seen() -> None:
    path = Path("runs/one/pairs.jsonl")
    whole = artefact([encode(row) for row in ROWS])
    lines = whole.splitlines(keepends=True)
    flips = [
        whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :] for at in range(len(whole)) for bit in range(8)
    ]
    cuts = [whole[:at] for at in range(len(whole))]
    others = [whole * 2, whole + lines[-1], lines[0] + lines[2] + lines[1], b"".join(lines[1:]), whole + b"\n"]
    for data in flips + cuts + others:
        with pytest.raises(UsageError, match=rf"^{path}, line \d: .* start the same command again"):
            list(artefact_rows(io.BytesIO(data), LeftOut, path))


def test_rows_of_another_version_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(artefact([b'{"id":"a"}']))
    with pytest.raises(UsageError, match="line 1: not a row of this version of erpo_ray .*`reason`"):
        list(read_rows(path, LeftOut))


def test_artefact_rows_need_not_be_objects(tmp_path: Path) -> None:
    path = tmp_path / "cap.json"
    path.write_bytes(artefact([b"96"]))
    with path.open("rb") as stream:
        assert list(artefact_rows(stream, int, path)) == [96]


def test_a_ledger_keeps_the_first_row_of_an_id(tmp_path: Path) -> None:
    ledger = Ledger(Files(), tmp_path / "candidates.jsonl", Candidate, 1)
    assert [ledger.append(candidate(key, text)) for key, text in [("a", "1"), ("b", "2"), ("a", "3")]] == [
        True,
        True,
        False,
    ]
    ledger.close()
    (line, *_) = ledger.path.read_bytes().splitlines(keepends=True)
    with ledger.path.open("ab") as stream:
        stream.write(line)
    again = Ledger(Files(), ledger.path, Candidate, 1)
    assert [(row.id, row.text) for row in again] == [("a", "1"), ("b", "2")]
    assert len(again) == 2 and "a" in again and "c" not in again


def test_one_sync_serves_a_group_of_lines(tmp_path: Path) -> None:
    class Counting(Files):
        synced = 0

        def sync(self, path: Path) -> None:
            self.synced += path.name == "candidates.jsonl"

    files, now = Counting(), [0.0]
    ledger = Ledger(files, tmp_path / "candidates.jsonl", Candidate, clock=lambda: now[0])
    for number in range(130):
        ledger.append(candidate(str(number)))
    assert files.synced == 2  # after 64 and 128
    now[0] = 0.051
    ledger.append(candidate("late"))
    assert files.synced == 3  # the two that waited, by their age
    ledger.append(candidate("last"))
    ledger.close()
    ledger.close()
    assert files.synced == 4


def test_a_verdict_waits_for_its_candidate_alone(tmp_path: Path) -> None:
    candidates = Ledger(Files(), tmp_path / "candidates.jsonl", Candidate, clock=lambda: 0.0)
    verdicts = Ledger(Files(), tmp_path / "verdicts.jsonl", Verdict, after=candidates, clock=lambda: 0.0)
    candidates.append(candidate("a"))
    candidates.sync()
    candidates.append(candidate("b"))
    verdicts.append(Verdict("a", "rules"))
    assert candidates._pending == {"b"}
    verdicts.append(Verdict("b", "rules"))
    assert candidates._pending == set()


def written(tmp_path: Path) -> tuple[Path, bytes]:
    path = tmp_path / "01-prefer" / "candidates.jsonl"
    path.parent.mkdir(exist_ok=True)
    data = b"".join(ledger_line(encode(candidate(str(number))), 1) for number in range(4))
    path.write_bytes(data)
    return path, data


def test_a_torn_end_is_cut_off_and_told(tmp_path: Path) -> None:
    path, data = written(tmp_path)
    start = data.rindex(b"\n", 0, -1) + 1
    zeros = data[:start] + bytes(40)
    holed = data[: start + 30] + bytes(20) + data[start + 50 :]
    for torn in [*(data[:cut] for cut in range(start + 1, len(data))), zeros, holed]:
        path.write_bytes(torn)
        notes: list[str] = []
        ledger = Ledger(Files(), path, Candidate, 1, note=notes.append)
        assert [row.id for row in ledger] == ["0", "1", "2"]
        assert path.read_bytes() == data[:start]
        assert notes == [
            f"{path}: the last {len(torn) - start} bytes were torn by a crash and are cut off (never counted)"
        ]
        assert ledger.append(candidate("3")) and path.read_bytes() == data
        ledger.close()


def test_damage_inside_a_ledger_is_an_error_and_nothing_is_changed(tmp_path: Path) -> None:
    path, data = written(tmp_path)
    for at in range(len(data) - 1):
        bad = data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
        path.write_bytes(bad)
        number = data.count(b"\n", 0, at) + 1
        with pytest.raises(UsageError, match=rf"{path}, line {number}: damaged .* or move {path.parent} and what came"):
            Ledger(Files(), path, Candidate, 2)
        assert path.read_bytes() == bad


def test_a_verdict_without_its_candidate_is_an_error(tmp_path: Path) -> None:
    candidates = Ledger(Files(), tmp_path / "candidates.jsonl", Candidate)
    (tmp_path / "verdicts.jsonl").write_bytes(ledger_line(encode(Verdict("gone", "rules")), 1))
    with pytest.raises(UsageError, match=r"verdicts.jsonl, line 1: gone is not in candidates.jsonl"):
        Ledger(Files(), tmp_path / "verdicts.jsonl", Verdict, after=candidates)


def test_a_deleted_lease_does_not_age_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "candidates.jsonl"
    path.write_bytes(ledger_line(encode(candidate("a")), 7))
    ledger = Ledger(Files(), path, Candidate, 1)
    ledger.append(candidate("b"))
    assert [row.id for row in Ledger(Files(), path, Candidate, 2)] == ["a", "b"]


def test_the_checksum_covers_the_epoch() -> None:
    line = ledger_line(b'{"id":"a"}', 1)
    assert verify(line) is not None and verify(line.replace(b'"epoch":1', b'"epoch":2')) is None
