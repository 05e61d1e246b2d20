"""Real drivers: killed at random again and again, on a full disk, stopped past their lease."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from random import Random

import pytest
from loop_driver import Driver, drive, forks, ids
from rundir_driver import NoSync, sample
from rundir_driver import drive as drive_small
from rundir_driver import outcome as outcome_of

from erpo_ray.errors import EnvironmentFault, ErpoError
from erpo_ray.rundir import Files

Scale = Callable[[int, int], int]
Promise = Callable[[str], None]


def made(place: Path) -> dict[str, bytes]:
    found = [path for name in ("examples", "pairs") for path in place.glob(f"run/stages/*/{name}.jsonl")]
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in found}


def size(place: Path) -> int:
    return sum(path.stat().st_size for path in place.glob("run/stages/*/*candidates.jsonl"))


def test_random_kills_cost_no_sample(tmp_path: Path, scale: Scale, seed: int, promise: Promise) -> None:
    """A driver is killed at a random time, start and recovery included, and started again; then left to end."""
    whole = tmp_path / "whole"
    whole.mkdir()
    assert drive(whole).code == 0
    (tmp_path / "again").mkdir()
    begun = time.monotonic()
    assert drive(tmp_path / "again").code == 0
    undisturbed = time.monotonic() - begun
    random, kills, wanted = Random(seed), 0, scale(6, 60)
    recoveries: list[float] = []
    lost = doubled = runs = 0
    while kills < wanted:
        place = tmp_path / str(runs)
        place.mkdir()
        runs += 1
        for _ in range(6):
            before, begun = ids(place), time.monotonic()
            stood = size(place)
            driver = Driver(place)
            wait = random.uniform(0, undisturbed)
            while time.monotonic() - begun < wait and driver.process.is_alive():
                if size(place) > stood:
                    recoveries.append(time.monotonic() - begun)
                    stood = 1 << 60
                time.sleep(0.002)
            if driver.process.is_alive():
                driver.process.kill()
                kills += 1
            ended = driver.end()
            doubled += len(before & set(ended.sampled))
            lost += len(before - ids(place))
            if ended.code == 0:
                break
        before = ids(place)
        ended = drive(place)
        assert ended.code == 0, ended.errors
        doubled += len(before & set(ended.sampled))
        lost += len(before - ids(place))
        assert made(place) == made(whole), f"--seed {seed}"
    assert (lost, doubled) == (0, 0), f"--seed {seed}"
    recoveries.sort()
    p50, p99 = (recoveries[int(share * (len(recoveries) - 1))] for share in (0.5, 0.99))
    promise(
        f"random SIGKILL of drivers: faults {kills}  lost 0  doubled 0  pairs equal yes  "
        f"recovery p50/p99 {p50:.2f}/{p99:.2f} s (without engine)"
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    system = ctypes.CDLL(None, use_errno=True)
    if system.mount(b"tmpfs", str(place).encode(), b"tmpfs", 0, b"size=256k"):
        pytest.skip(f"cannot mount a tmpfs ({errno.errorcode[ctypes.get_errno()]})")
    yield place
    system.umount2(str(place).encode(), 2)


def test_a_disk_that_is_really_full_stops_the_run_and_room_continues_it(
    small_disk: Path, tmp_path: Path, promise: Promise
) -> None:
    drive_small(NoSync(), tmp_path / "whole")
    want = outcome_of(Files(), tmp_path / "whole")
    ballast, stopped = small_disk / "ballast", 0
    for left in range(0, 64, 4):
        root = small_disk / f"{left}"
        ballast.write_bytes(b"")
        usage = os.statvfs(small_disk)
        ballast.write_bytes(bytes(max(0, usage.f_bavail * usage.f_frsize - left * 1024)))
        try:
            drive_small(Files(), root)
        except EnvironmentFault as fault:
            stopped += 1
            assert "No space left on device; free space there or use another --run-dir" in str(fault)
            assert str(small_disk) in str(fault)
        ballast.unlink()
        drive_small(Files(), root)
        assert outcome_of(Files(), root) == want
        Files().remove(root)
    assert stopped > 5
    promise(f"full disk (tmpfs): faults {stopped}  lost 0  doubled 0  pairs equal yes")


def _slow(root: Path, half: Event, said: Path) -> None:
    """A driver that says when half its samples are there, and then takes its time."""

    def draw(key: str) -> str:
        if key == "c4":
            half.set()
            time.sleep(1)
        return sample(key)

    try:
        drive_small(Files(), root, draw)
    except ErpoError as error:
        said.write_text(f"{type(error).__name__}: {error}")


def test_a_driver_that_was_stopped_past_its_lease_writes_nothing_more(tmp_path: Path, promise: Promise) -> None:
    """Where locks do not hold: SIGSTOP, another driver ends the run, SIGCONT."""
    drive_small(NoSync(), tmp_path / "whole")
    want = outcome_of(Files(), tmp_path / "whole")
    root = tmp_path / "run"
    half = forks.Event()
    child = forks.Process(target=_slow, args=(root, half, tmp_path / "said"))
    child.start()
    assert half.wait(60) and child.pid
    os.kill(child.pid, signal.SIGSTOP)
    (root / ".lease.lock").unlink()
    drive_small(Files(), root)
    after = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and "candidates" not in path.name}
    os.kill(child.pid, signal.SIGCONT)
    child.join()
    assert (tmp_path / "said").read_text().startswith(f"RunFailed: {root} was taken over by")
    assert {path: path.read_bytes() for path in after} == after
    found = outcome_of(Files(), root)
    assert {name: found[name] for name in found if name != "candidates.jsonl"} == {
        name: want[name] for name in want if name != "candidates.jsonl"
    }
    promise("SIGSTOP past the lease: foreign writes counted 0")
