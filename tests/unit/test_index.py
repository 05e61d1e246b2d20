"""The index of a ledger: a set of ids in few bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from erpo_ray.rundir.index import Index
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
