"""One run with real engines and trainers, killed in four places and continued each time by the same command.

vLLM, Ray Train with two gloo workers and TRL, on a random model of three million weights. What vLLM draws depends on
its batches, so the undisturbed run that the end is compared with goes on from a copy of the same samples and pairs.
"""

from __future__ import annotations

import hashlib
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from loop_driver import ids
from real_runs import CONFIG, Run

from erpo_ray.engines.models import EMBEDDED, materialise
from erpo_ray.rundir.lines import artefact_rows, ledger_rows
from erpo_ray.telemetry import Step
from erpo_ray.train.checkpoints import MARKER
from erpo_ray.types import Candidate, Verdict

STEPS, SAVE_STEPS = 8, 2
ASKED = 8 * 4
"""Samples of the round of preference."""


class Place:
    """A run directory of the test, and what stands in its round of preference."""

    def __init__(self, home: Path, config: Path) -> None:
        self.home, self.run = home, Run(config, home / "run", home / "log")
        self.stage = home / "run/stages/01-prefer"

    def drawn(self) -> dict[str, Candidate]:
        """All whole candidates, each once."""
        path = self.stage / "candidates.jsonl"
        rows = list(ledger_rows(path, Candidate)) if path.exists() else []
        found = {row.id: row for row in rows}
        assert len(found) == len(rows)
        return found

    def checkpoints(self) -> dict[int, bool]:
        """By their step, whether they are sealed."""
        found = (self.stage / ".policy.work").glob("checkpoint-*")
        return {int(path.name.split("-")[1]): (path / MARKER).exists() for path in found}

    def losses(self) -> list[tuple[int, float]]:
        """Of each step that the trainer told of."""
        with (self.stage / "training.jsonl").open("rb") as stream:
            return [(row.step, row.loss) for row in artefact_rows(stream, Step, self.stage)]

    def trained(self) -> float:
        """Tokens that the last call of the trainer took."""
        with (self.stage / "policy_facts.json").open("rb") as stream:
            (facts,) = artefact_rows(stream, dict[str, float], self.stage)
        return facts["tokens_per_second"] * facts["seconds"]

    def weights(self) -> str:
        return hashlib.sha256((self.stage / "policy/model.safetensors").read_bytes()).hexdigest()


def killed_engine(place: Place) -> tuple[int, float]:
    """The first start: its engine is killed in the middle of the round, and rank 1 in the forward pass of step 4.

    Returns how many samples were acknowledged when the engine died, and the seconds to the next new one.
    """
    # Rank 1 passes there once in each of the two steps of imitation.
    started = place.run.start("forward:rank1:6")
    started.until(lambda: len(place.drawn()) >= ASKED // 4)
    before = place.drawn()
    started.kill("ray::RolloutWorker")
    begun = time.monotonic()
    before |= place.drawn()
    started.until(lambda: len(place.drawn()) > len(before))
    recovered = time.monotonic() - begun
    assert started.end() == 1, started.said()
    assert "rollout worker 0 was lost" in started.said() and "training failed:" in started.said()
    after = place.drawn()
    assert len(after) == ASKED > len(before)
    assert {key: after[key] for key in before} == before
    assert {row.candidate_id for row in ledger_rows(place.stage / "verdicts.jsonl", Verdict)} == after.keys()
    return len(before), recovered


# One cluster at a time, as in test_cluster.py.
@pytest.mark.xdist_group("cluster")
@pytest.mark.timeout(3600)
def test_a_real_run_killed_four_times_ends_with_the_weights_of_an_undisturbed_one(
    tmp_path: Path, scale: Callable[[int, int], int], promise: Callable[[str], None]
) -> None:
    if not scale(0, 1):
        pytest.skip("five minutes: --long")
    tiny.speaker(tmp_path / "model", materialise(EMBEDDED))
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(model=tmp_path / "model"))
    place, whole = Place(tmp_path / "killed", config), Place(tmp_path / "whole", config)
    place.home.mkdir()

    kept, recovered = killed_engine(place)
    assert place.checkpoints() == {2: True}
    pairs, drawn = (place.stage / "pairs.jsonl").read_bytes(), ids(place.home)

    shutil.copytree(place.home, whole.home, symlinks=True)
    shutil.rmtree(whole.stage / ".policy.work")
    started = whole.run.start()
    assert started.end() == 0, started.said()

    started = place.run.start("checkpoint:half")
    assert started.end() == 1, started.said()
    # It began behind step 2, and what it wrote of step 4 is half a checkpoint.
    assert place.checkpoints() == {2: True, 4: False}
    assert not list((place.stage / ".policy.work/checkpoint-4").glob("optimizer*"))

    started = place.run.start("policy:renamed")
    assert started.end() == -signal.SIGKILL, started.said()
    assert (place.stage / "policy").exists() and not (place.stage / "stage.json").exists()

    started = place.run.start()
    assert started.end() == 0, started.said()

    assert drawn <= ids(place.home) and drawn <= ids(whole.home)
    assert (place.stage / "pairs.jsonl").read_bytes() == pairs == (whole.stage / "pairs.jsonl").read_bytes()
    assert place.losses() == whole.losses() and [step for step, _ in place.losses()] == list(range(1, STEPS + 1))
    # All steps behind the last whole checkpoint and none before it, rows being of like length.
    share = place.trained() / whole.trained()
    assert share == pytest.approx((STEPS - SAVE_STEPS) / STEPS, abs=1 / STEPS)
    assert place.weights() == whole.weights()
    promise(
        f"real run killed: engine mid-round ({kept} of {ASKED} samples there), rank 1 mid-step, rank 0 while saving, "
        f"driver before the seal: faults 4  lost 0  doubled 0  weights equal yes  next sample after {recovered:.0f} s  "
        f"steps redone at most {SAVE_STEPS}"
    )
