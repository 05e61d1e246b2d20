"""Hosts of a cluster go, or are out of reach for a while, in the middle of a run."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hosts import hosts, why_not
from outages import DRAWS, ENGINE, RANK, TRAINS, Cluster, Job, Place, started

from erpo_ray.engines.models import EMBEDDED, materialise

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / room) for room in ("chaos", "ray")]

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

FIRST, ROUND = "00-imitate", "01-prefer"
ASKED, STEPS, SAVE_STEPS = 8 * 4, 40, 4
CLUSTER = f"rollout_workers: 2, rollout_labels: {{{DRAWS}: here}}, train_labels: {{{TRAINS}: here}}, train_workers: 2"
SETTINGS = [
    f"prefer.fit.max_steps={STEPS}", f"prefer.fit.epochs={STEPS}", f"prefer.fit.save_steps={SAVE_STEPS}",
]  # fmt: skip
LOST = re.compile(r"^rollout worker \d+ was lost.*: \S.*$", re.MULTILINE)


@pytest.fixture
def folder(scale: Callable[[int, int], int]) -> Iterator[Path]:
    """What all hosts see."""
    if not scale(0, 1):
        pytest.skip("minutes of waiting until hosts count as dead: --long")
    with tempfile.TemporaryDirectory(prefix="erpo-hosts-", dir="/var/tmp") as name:
        yield Path(name)


@pytest.fixture
def cluster(folder: Path) -> Iterator[Cluster]:
    for room in ("erpo_ray", "jobs"):
        shutil.copytree(ROOT / room, folder / "code" / room)
    with hosts(3, folder) as found, started(found, folder / "code") as cluster:
        yield cluster


@pytest.fixture
def words(folder: Path) -> list[str]:
    """What the command is given: a run of a small random model."""
    import tiny
    from real_runs import CONFIG

    tiny.speaker(folder / "model", materialise(EMBEDDED))
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(model=folder / "model").replace("train_workers: 2", CLUSTER))
    return [str(config), "--run-dir", str(folder / "run"), *SETTINGS]


def unplugged(cluster: Cluster, job: Job, place: Place, stage: str, count: int, seconds: float) -> float:
    """The host that draws is out of reach for a while, from so many samples of a stage on. Seconds to the next one, or
    until it is back."""
    job.until(lambda: place.in_stage(stage) >= count, f"samples of {stage}")
    cluster.draws.unplug()
    before, end = len(place.drawn()), time.monotonic() + seconds
    went_on = job.until(lambda: len(place.drawn()) > before or time.monotonic() > end, "new sample")
    time.sleep(max(0.0, end - time.monotonic()))
    cluster.draws.plug()
    return went_on


def killed_while_it_draws(cluster: Cluster, job: Job, place: Place) -> tuple[float, float]:
    """The other engine goes on, and this one's samples are drawn again. Seconds to the next sample and to the line that
    tells of the loss."""
    job.until(lambda: place.in_stage(ROUND) >= ASKED // 4, "samples of the round")
    assert cluster.draws.run("pgrep", "-f", ENGINE).stdout
    cluster.draws.kill()
    before = place.drawn()
    went_on = job.until(lambda: len(place.drawn()) > len(before), "new sample")
    told = went_on + job.until(lambda: bool(LOST.search(job.said())), "word of the loss")
    job.until(lambda: place.in_stage(ROUND) == ASKED, "end of the round")
    after = place.drawn()
    assert {key: after[key] for key in before} == before
    return went_on, told


def killed_while_it_trains(cluster: Cluster, job: Job, place: Place) -> tuple[int, float]:
    """The step of the last whole checkpoint, and seconds until the command ends with the cause."""
    job.until(lambda: place.checkpoint(ROUND) > 0, "checkpoint")
    assert cluster.trains.run("pgrep", "-f", RANK).stdout
    cluster.trains.kill()
    killed = time.monotonic()
    assert job.end() == 1, job.said()
    ended = time.monotonic() - killed
    assert re.search(r"^erpo: training failed: \S", job.said(), re.MULTILINE), job.said()
    step = place.checkpoint(ROUND)
    assert SAVE_STEPS <= step < STEPS
    return step, ended


def test_hosts_that_are_killed_while_samples_are_drawn_and_while_it_trains(
    cluster: Cluster, words: list[str], folder: Path, promise: Callable[[str], None]
) -> None:
    place, job = Place(folder / "run"), cluster.submit(folder / "first", *words)
    unplugged(cluster, job, place, FIRST, 1, 5.0)
    job.until(lambda: place.in_stage(ROUND) > 0, "the round")
    assert not LOST.search(job.said()), job.said()
    went_on, told = killed_while_it_draws(cluster, job, place)
    step, ended = killed_while_it_trains(cluster, job, place)
    drawn = place.drawn()

    again = cluster.submit(folder / "again", *words)
    resumed = again.until(lambda: place.checkpoint(ROUND) > step, "further checkpoint")
    assert again.end() == 0, again.said()
    assert place.sealed(ROUND) and place.status()["exit_code"] == 0
    after = place.drawn()
    assert {key: after[key] for key in drawn} == drawn
    assert place.judged() == after.keys()
    assert place.steps(ROUND) == list(range(1, STEPS + 1))
    promise(
        f"hosts killed, of three: one while it draws, one while it trains: faults 2  lost 0  doubled 0  "
        f"next sample after {went_on:.0f} s, the loss told after {told:.0f} s; the command ends after {ended:.0f} s, "
        f"the same one trains again after {resumed:.0f} s, from step {step} of {STEPS}; link down for 5 s: losses 0"
    )


def test_a_link_that_is_down_for_a_minute(
    cluster: Cluster, words: list[str], folder: Path, promise: Callable[[str], None]
) -> None:
    """Its host counts as dead by then, and stays out of the run when it is back."""
    place, job = Place(folder / "run"), cluster.submit(folder / "first", *words)
    went_on = unplugged(cluster, job, place, ROUND, ASKED // 4, 60.0)
    assert went_on < 60
    assert job.end() == 0, job.said()
    assert LOST.search(job.said())
    assert place.sealed(ROUND) and place.in_stage(ROUND) == ASKED
    assert place.judged() == place.drawn().keys()
    promise(f"link down for 60 s: faults 1  lost 0  doubled 0  next sample after {went_on:.0f} s")
