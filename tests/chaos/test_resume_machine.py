"""Hypothesis plays a run directory: steps, power cuts, take-overs and restarts in any order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from crash_disk import Disk
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from rundir_driver import CONFIG, INPUTS, pair

from erpo_ray.errors import RunFailed
from erpo_ray.rundir import RunDir, ledger, run
from erpo_ray.rundir.fingerprint import fingerprint
from erpo_ray.types import Candidate, Pair, Scores, Verdict

ROOT = Path("/runs/one")
MINE = fingerprint(CONFIG, INPUTS)
KEYS = tuple(f"c{number}" for number in range(12))


class Resume(RuleBasedStateMachine):
    """One stage: candidates, verdicts, pairs, seal. `texts` holds what was acknowledged, each text drawn once."""

    def __init__(self) -> None:
        super().__init__()
        self.disk, self.draws = Disk(), 0
        self.texts: dict[str, str] = {}
        self.judged: set[str] = set()
        self.stale: RunDir | None = None

    @initialize()
    def start(self) -> None:
        self._open()

    def _open(self) -> None:
        self.run = RunDir.open(ROOT, CONFIG, inputs=INPUTS, files=self.disk, note=lambda message: None)
        self.stage = self.run.stage("01-prefer")
        self.candidates = self.stage.ledger("candidates.jsonl", Candidate)
        self.verdicts = self.stage.ledger("verdicts.jsonl", Verdict, after=self.candidates)
        found = {row.id: row.text for row in self.candidates}
        assert found.items() >= self.texts.items(), "an acknowledged candidate is lost or changed"
        assert self.judged <= {row.candidate_id for row in self.verdicts}, "an acknowledged verdict is lost"
        assert all(row.notes == (found[row.candidate_id],) for row in self.verdicts), "a verdict of another text"

    @property
    def sealed(self) -> bool:
        return self.stage.sealed

    @precondition(lambda self: not self.sealed)
    @rule(keys=st.sets(st.sampled_from(KEYS), min_size=1, max_size=5))
    def sample(self, keys: set[str]) -> None:
        for key in sorted(keys):
            if key not in self.candidates:
                self.draws += 1
                self.candidates.append(Candidate(key, "p", 0, (1,), f"draw {self.draws}", "stop", "v"))

    @precondition(lambda self: not self.sealed)
    @rule(count=st.integers(1, 6))
    def judge(self, count: int) -> None:
        for row in [row for row in self.candidates if row.id not in self.verdicts][:count]:
            self.verdicts.append(Verdict(row.id, "rules", Scores(1.0, 0.5, 3), notes=(row.text,)))

    @precondition(lambda self: not self.sealed)
    @rule()
    def sync(self) -> None:
        self.candidates.sync()
        self.verdicts.sync()
        self.texts |= {row.id: row.text for row in self.candidates}
        self.judged |= {row.candidate_id for row in self.verdicts}

    @precondition(lambda self: not self.sealed and len(self.verdicts) == len(KEYS))
    @rule()
    def close(self) -> None:
        self.sync()
        self.stage.once("pairs.jsonl", Pair, lambda: [pair(key) for key in KEYS])
        self.stage.seal({"pairs": len(KEYS)})

    @rule(choice=st.integers(0, 1000), cut=st.booleans())
    def power_cut(self, choice: int, cut: bool) -> None:
        images = list(self.disk.images())
        _, image = images[choice % len(images)] if cut else images[0]
        self.disk, self.stale = Disk(image.live, image.data), None
        self._open()

    @rule()
    def take_over(self) -> None:
        """Another driver opens the run where locks do not hold; the old one goes on for a while."""
        if not self.sealed:
            self.sync()
        self.stale, late = self.run, (self.stage, self.candidates)
        self._open()
        stage, candidates = late
        if stage.sealed:
            return
        with pytest.raises(RunFailed, match="was taken over"):
            stage.seal({})
        for key in KEYS:
            if key not in candidates:
                candidates.append(Candidate(key, "p", 0, (1,), "written by a stale driver", "stop", "v"))
                break

    @invariant()
    def nothing_stale_is_read(self) -> None:
        if hasattr(self, "candidates"):
            assert all(row.text != "written by a stale driver" for row in self.candidates)


def test_any_order_of_steps_cuts_and_take_overs(
    scale: Callable[[int, int], int], promise: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "config_yaml", lambda config: b"name: driven\n")
    monkeypatch.setattr(run, "environment", lambda: {"python": "3"})
    monkeypatch.setattr(run, "fingerprint", lambda config, inputs: MINE)
    monkeypatch.setattr(ledger, "GROUP_LINES", 4)
    monkeypatch.setattr(ledger, "GROUP_SECONDS", 60.0)
    examples = scale(60, 5000)
    quiet = settings(
        max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(Resume, settings=quiet)
    promise(f"resume, any order of steps: histories {examples:,}  lost 0  doubled 0  foreign writes 0")
