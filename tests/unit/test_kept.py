"""Log-probabilities that are kept between trainings: found again by content, not believed when torn or damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erpo_ray.train.kept import Scored, append, file, key, read

ROWS = [Scored("a" * 16, 3, -1.5), Scored("b" * 16, 1, -0.1), Scored("c" * 16, 9, -1234.0000305175781)]
ALL = {row.key: row.tokens for row in ROWS}
FOUND = {row.key: row.logp for row in ROWS}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = file(tmp_path / "reference", "0" * 16)
    append(path, ROWS[:1])
    append(path, ROWS[1:])
    return path


def test_what_was_appended_is_read_to_the_last_bit(path: Path) -> None:
    assert path.name == "0000000000000000.jsonl"
    assert read(path, ALL) == FOUND


def test_log_probabilities_of_tokens_stand_beside_their_sums(tmp_path: Path) -> None:
    path = file(tmp_path, "0" * 16)
    names = [key("v", True, (1, 2), (3, 4), by_token) for by_token in (False, True)]
    rows = [Scored(names[0], 2, -3.5), Scored(names[1], 2, (-1.25, -2.25)), Scored("b" * 16, 2, (-1.0, float("nan")))]
    append(path, rows)
    assert names[0] != names[1]
    assert read(path, dict.fromkeys([*names, "b" * 16], 2)) == {names[0]: -3.5, names[1]: (-1.25, -2.25)}


def test_only_what_is_wanted_is_read_and_none_without_a_file(path: Path) -> None:
    assert read(path, {"b" * 16: 1, "d" * 16: 1}) == {"b" * 16: -0.1}
    assert read(path.with_name("other.jsonl"), ALL) == {}


def test_a_completion_of_another_length_is_another_one(path: Path) -> None:
    assert read(path, ALL | {"a" * 16: 4}) == {k: v for k, v in FOUND.items() if k != "a" * 16}


def test_what_is_not_a_number_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    append(path, [Scored("a" * 16, 3, float("nan")), Scored("b" * 16, 1, float("-inf")), ROWS[2]])
    assert read(path, ALL) == {"c" * 16: ROWS[2].logp}


@pytest.mark.parametrize("cut", [1, 20, 70])
def test_a_torn_end_is_scored_anew_and_spoils_nothing_after_it(path: Path, cut: int) -> None:
    path.write_bytes(path.read_bytes()[:-cut])
    assert read(path, ALL) == {k: v for k, v in FOUND.items() if k != "c" * 16}
    append(path, ROWS[2:])
    assert read(path, ALL) == FOUND


@given(at=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_changed_byte_gives_no_other_number(tmp_path_factory: pytest.TempPathFactory, at: int, byte: int) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.jsonl"
    path.unlink(missing_ok=True)
    append(path, ROWS)
    data = bytearray(path.read_bytes())
    data[at % len(data)] = byte
    path.write_bytes(data)
    found = read(path, ALL)
    assert found.items() <= FOUND.items()
    assert len(found) >= 1


def test_a_key_depends_on_the_weights_the_arithmetic_and_the_ids_of_both_sides() -> None:
    known = key("v", True, (1, 2), (3,))
    assert known == key("v", True, [1, 2], [3])
    others = [key("w", True, (1, 2), (3,)), key("v", False, (1, 2), (3,)), key("v", True, (1,), (2, 3))]
    assert len({known, *others, key("v", True, (1, 2), (4,))}) == 5
