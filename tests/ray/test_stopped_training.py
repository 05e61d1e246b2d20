"""A training of two ranks that is asked to stop goes on with the row that the undisturbed one takes next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import ranks
import tiny
from test_train import same, two_ranks

from erpo_ray.objectives import Training

TRAINING = Training(learning_rate=1e-2, epochs=2, batch_size=4, micro_batch_size=1, max_length=64, bf16=False)
STEPS, STOPPED = 12, 8
"""Six steps an epoch; the second step of the second one is the last that is done, and nothing else is saved."""


def test_a_training_asked_to_stop_goes_on_to_the_weights_of_a_whole_one(tmp_path: Path) -> None:
    policy = tiny.policy(tmp_path / "policy")
    (_, told), (_, silent) = two_ranks(ranks.stopping_each, policy, TRAINING, STOPPED, tmp_path)
    ahead, behind = range(1, STOPPED + 1), range(STOPPED + 1, STEPS + 1)
    assert told == dict.fromkeys(("imitate", "prefer", "reinforce"), [*ahead, *(-step for step in behind)])
    assert silent == dict.fromkeys(told, [])
    for stage in told:
        whole, gone_on = (tmp_path / which / stage / "model.safetensors" for which in ("whole", "gone on"))
        assert gone_on.read_bytes() == whole.read_bytes(), stage


def test_rows_left_over_are_trained_on_once_however_many_ranks_there_are(tmp_path: Path) -> None:
    """One row for two ranks that take two each: the last step of an epoch has three spare ones."""
    policy, training, rows = tiny.policy(tmp_path / "policy"), replace(TRAINING, micro_batch_size=2), 9
    (_, two), (_, too) = two_ranks(ranks.training_each, policy, training, rows, tmp_path / "two")
    for stage, train in ranks.trainings(policy, training, rows).items():
        alone = train(tmp_path / "alone" / stage)["loss_last"]
        assert two[stage] == too[stage] == pytest.approx(alone, abs=2e-2), stage
        assert same(tmp_path / "alone" / stage, tmp_path / "two" / stage, atol=5e-3), stage
