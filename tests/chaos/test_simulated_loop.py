"""Thousands of whole runs in which everything goes wrong that one seed can make go wrong."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from simulated_kills import wall
from simulation import Rates, candidates, doubled, made, quick, simulate

from erpo_ray.cluster import pool
from erpo_ray.rundir import Ledger

Scale = Callable[[int, int], int]
FOR_EVER = 1e8
"""Simulated seconds of a run that waited for a worker that hung."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)


def drawn(seed: int) -> Rates:
    """How much goes wrong differs from run to run: from nothing but power cuts to a quarter of all calls."""
    random = Random(f"rates {seed}")
    worst = random.choice((0.02, 0.1, 0.25))
    die, hang, judge, node = (random.uniform(0, worst) for _ in range(4))
    return Rates(die, node / 4, node, hang / 4, judge, cut=random.choice((0.0, 0.5, 0.9)))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The seeds of the long form in blocks, so that several processes share them."""
    if "block" in metafunc.fixturenames:
        metafunc.parametrize("block", range(20 if metafunc.config.getoption("--long") else 1))


def test_no_seed_loses_doubles_or_changes_anything(
    block: int, scale: Scale, seed: int, promise: Callable[..., None]
) -> None:
    undisturbed, _ = simulate(0, Rates())
    want, everything = made(undisturbed), candidates(undisturbed)
    count, faults, starts = scale(150, 250), 0, 0
    for number in range(seed + block * count, seed + (block + 1) * count):
        disk, counts = simulate(number, drawn(number))
        assert not counts.lost and not counts.doubled and not doubled(disk), f"--seed {number}"
        assert counts.wall_s < FOR_EVER, f"--seed {number}"
        assert made(disk) == want and candidates(disk) == everything, f"--seed {number}"
        faults, starts = faults + counts.faults, starts + counts.starts
    assert faults > count and starts > count
    promise(
        "simulated loop: seeds {seeds:,}  starts {starts:,}  faults {faults:,}  lost 0  doubled 0  pairs equal yes",
        seeds=count,
        starts=starts,
        faults=faults,
    )


def _forgetful(ledger: Ledger, *arguments, begin=Ledger.__init__, **settings) -> None:
    begin(ledger, *arguments, **settings)
    ledger._ids = set()


def _late_answers_count(self: pool.Pool, call: pool._Call, ticket: object) -> list[object]:
    return self._crew.result(ticket)


MUTANTS = {
    "no join by id, in the loop": (Ledger, "__init__", _forgetful),
    "samples of a lost worker are forgotten": (pool, "_outstanding", lambda held: []),
    "a hung call is waited for": (pool.Pool, "_result", _late_answers_count),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_simulation_notices_when_a_safeguard_is_gone(
    name: str, monkeypatch: pytest.MonkeyPatch, promise: Callable[[str], None]
) -> None:
    undisturbed, _ = simulate(0, Rates())
    want = made(undisturbed)
    place, attribute, replacement = MUTANTS[name]
    monkeypatch.setattr(place, attribute, replacement)

    def wrong(number: int) -> bool:
        try:
            disk, counts = simulate(number, drawn(number))
            return bool(
                counts.lost or counts.doubled or doubled(disk) or made(disk) != want or counts.wall_s > FOR_EVER
            )
        except Exception:
            return True

    assert any(wrong(number) for number in range(40))
    promise(f"safeguard removed and missed: {name}")


def test_a_seed_repeats_itself() -> None:
    (first, one), (second, two) = (simulate(7, drawn(7)) for _ in range(2))
    assert first.log == second.log and made(first) == made(second) and one == two


def test_rounds_take_little_longer_when_one_actor_in_ten_is_killed(
    scale: Scale, seed: int, promise: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wall time without kills over that with them; engines take 20 s to start, a sample 4 to 12 s."""
    monkeypatch.setattr(pool, "CALL_DEADLINE_S", 1800.0)
    setting = {"workers": 4, "samples": 960, "in_flight": 32, "start_s": 20.0}
    rounds = scale(60, 1000)
    without = sum(wall(number, **setting, kill_rate=0.0)[0] for number in range(seed, seed + rounds))
    hit = [wall(number, **setting, kill_rate=0.1) for number in range(seed, seed + rounds)]
    kills = sum(killed for _, killed in hit)
    # What a kill must cost: the start of its successor, and on average half a sample's work, shared by all workers.
    ideal = without / (without + kills * (setting["start_s"] + 4.0) / setting["workers"])
    ettr = without / sum(seconds for seconds, _ in hit)
    promise(
        f"simulated actor kills: rounds {rounds:,} of 4 workers  kills {kills}  ETTR {ettr:.2f} (ideal {ideal:.2f})"
    )
    assert kills > rounds / 5 and ettr >= 0.85 and ettr >= 0.95 * ideal
