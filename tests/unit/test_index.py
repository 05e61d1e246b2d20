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
    assert 12 <= 8 * len(index.table) / len(index) <= 24


def places_of(rows: list[tuple[str, int]]) -> Places:
    index = Index()
    for key, _ in rows:
        index.add(key)
    places = Places(index)
    for key, offset in rows:
        places.add(key, offset)
    return places


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 2**63))), st.text(max_size=3))
def test_places_are_those_of_the_first_row_of_an_id(rows: list[tuple[str, int]], other: str) -> None:
    places, plain = places_of(rows), dict[str, int]()
    for key, offset in rows:
        plain.setdefault(key, offset)
    assert {key: places[key] for key in plain} == plain
    assert (other in places) == (other in plain)
    if other not in plain:
        with pytest.raises(KeyError):
            places[other]


def test_places_stay_small() -> None:
    names = [identity("run", number) for number in range(10_000)]
    places = places_of([(name, number) for number, name in enumerate(names)])
    assert [places[name] for name in names] == list(range(10_000))
    assert 12 <= 8 * len(places._offsets) / len(names) <= 24


@pytest.mark.parametrize("more", [1, 10_000])
def test_ids_that_the_index_gets_later_have_no_place(more: int) -> None:
    index = Index()
    index.add("known")
    places = Places(index)
    places.add("known", 7)
    later = [identity("later", number) for number in range(more)]
    for number, name in enumerate(later):
        index.add(name)
        if number < 100:
            places.add("unknown", number)
    assert places["known"] == 7 and "unknown" not in places
    assert not any(name in places for name in later)
