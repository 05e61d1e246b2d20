"""What actors hold of their machine: measured, kept, flat over many rounds, and the decision to begin one anew."""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
from pathlib import Path
from statistics import linear_regression

from fakes import Rote
from rundir_driver import NoSync
from test_loop import CONFIG, run

from erpo_ray import rules
from erpo_ray.config import Config, Rounds
from erpo_ray.rundir.lines import plain_rows
from erpo_ray.usage import GIB, Actor, Growth, Upkeep, Usage, rows, usage

ROUNDS, WARM = 50, 10
MOST = 0.001
"""Of the memory, in a round."""


def test_a_file_and_a_thread_more_are_seen(tmp_path: Path) -> None:
    gc.collect()  # what other tests left open does not close in between
    before, wait = usage(), threading.Event()
    thread = threading.Thread(target=wait.wait)
    thread.start()
    with (tmp_path / "file").open("w"):
        now = usage()
    wait.set()
    thread.join()
    assert (now.fds - before.fds, now.threads - before.threads, now.pid) == (1, 1, os.getpid())
    block = b"x" * (64 << 20)
    assert 48 << 20 < usage().rss - now.rss < 80 << 20, len(block)


def held(gib: float, pid: int = 1) -> Usage:
    return Usage(int(gib * GIB), 10, 2, pid)


def test_who_grew_beyond_the_limit_is_named_and_its_successor_begins_anew() -> None:
    growth = Growth(2.0)
    assert growth.beyond({"rollout-0": held(9.0), "judge-0": held(1.0)}) == ()
    assert growth.beyond({"rollout-0": held(11.0), "judge-0": held(3.1)}) == ("judge-0",)
    assert growth.beyond({"rollout-0": held(11.1), "judge-0": held(2.9, pid=2)}) == ("rollout-0",)
    assert growth.beyond({"rollout-0": held(8.0, pid=3), "judge-0": held(4.8, pid=2)}) == ()
    assert growth.beyond({"judge-0": held(5.0, pid=2)}) == ("judge-0",)


def test_the_default_limit_lets_an_ordinary_worker_be() -> None:
    growth = Growth(Config().cluster.growth_gib)
    assert growth.beyond({"rollout-0": held(2.0)}) == growth.beyond({"rollout-0": held(6.0)}) == ()


def test_the_driver_stands_first_and_who_was_replaced_is_marked() -> None:
    driver, worker = rows("01-prefer", Upkeep({"judge-0": held(3.0, pid=7)}, ("judge-0",)))
    assert (driver.actor, driver.pid, driver.replaced) == ("driver", os.getpid(), False)
    assert worker == Actor("01-prefer", "judge-0", 3 * GIB, 10, 2, 7, replaced=True)


class Growing(Rote):
    """A backend whose rollout worker is replaced behind its second stage."""

    calls = 0

    def upkeep(self) -> Upkeep:
        self.calls += 1
        assert self.served, "workers are tended only when they have served"
        return Upkeep({"rollout-0": held(self.calls)}, ("rollout-0",) if self.calls == 2 else ())


def test_each_sealed_stage_has_its_rows_once(tmp_path: Path) -> None:
    said: list[str] = []
    backend = Growing(CONFIG, rules.load(""))
    run(tmp_path, CONFIG, backend, say=said.append)
    run(tmp_path, CONFIG, Growing(CONFIG, backend.book))
    found = [row for row in plain_rows(tmp_path / "run" / "actors.jsonl", Actor) if row.actor != "driver"]
    assert [(row.stage, row.rss // GIB, row.replaced) for row in found] == [
        ("base", 1, False), ("00-imitate", 2, True), ("01-prefer", 3, False), ("02-prefer", 4, False),
        ("03-prefer", 5, False),
    ]  # fmt: skip
    assert [line for line in said if "replaced" in line] == ["rollout-0 had grown to 2.0 GiB and is replaced"]


def fifty_rounds(folder: Path) -> None:
    config = CONFIG.model_copy(update={"rounds": Rounds(count=ROUNDS - 1, cap_ratio=1.0)})
    run(folder, config, files=NoSync())


def test_the_driver_holds_no_more_after_fifty_rounds(tmp_path: Path) -> None:
    # A process of its own: files that other tests left to the collector close in the middle of this one.
    driver = multiprocessing.get_context("spawn").Process(target=fifty_rounds, args=(tmp_path,))
    driver.start()
    driver.join()
    assert driver.exitcode == 0
    drivers = [row for row in plain_rows(tmp_path / "run" / "actors.jsonl", Actor) if "prefer" in row.stage]
    assert len(drivers) == ROUNDS
    late = drivers[WARM:]
    assert {(row.fds, row.threads) for row in late} == {(late[0].fds, late[0].threads)}
    slope = linear_regression(range(len(late)), [row.rss for row in late]).slope
    assert slope <= MOST * late[0].rss, f"{slope / 2**10:.0f} KiB a round of {late[0].rss / 2**20:.0f} MiB"
    print(f"driver: {ROUNDS} rounds, {late[0].fds} fds, {late[0].threads} threads, {slope / 2**10:+.1f} KiB a round")
