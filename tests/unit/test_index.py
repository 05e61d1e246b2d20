"""The index of a ledger: a set of ids in few bytes, and where their rows lie."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erpo_ray.rundir.index import Index, Places
from erpo_ray.types import identity


@given(st.lists(st.text(max_size=3)), st.text(max_size=3))
def test_it_holds_what_a_set_holds(keys: list[str], other: str) -> None:
    index, plain = Index(), set[str]()
    for key in keys:
        assert index.add(key) == (key not in plain)
        plain.add(key)
    assert len(index) == len(plain)
    assert all(key in index for key in plain)
    assert (other in index) == (other in plain)


def test_it_grows_and_stays_small() -> None:
    index = Index()
    names = [identity("run", number) for number in range(10_000)]
    assert all(index.add(name) for name in names)
    assert not any(index.add(name) for name in names)
    assert len(index) == 10_000
    assert all(name in index for name in names) and "another" not in index
    assert 12 <= 8 * len(index._table) / len(index) <= 24


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 2**63))), st.text(max_size=3))
def test_places_are_those_of_the_first_row_of_an_id(rows: list[tuple[str, int]], other: str) -> None:
    places, plain = Places(), dict[str, int]()
    for key, offset in rows:
        places.add(key, offset)
        plain.setdefault(key, offset)
    assert {key: places[key] for key in plain} == plain
    assert (other in places) == (other in plain)
    if other not in plain:
        with pytest.raises(KeyError):
            places[other]


def test_places_grow_and_stay_small() -> None:
    places = Places()
    names = [identity("run", number) for number in range(10_000)]
    for number, name in enumerate(names):
        places.add(name, number)
    assert [places[name] for name in names] == list(range(10_000))
    assert 24 <= 16 * len(places._table) / len(names) <= 48
