"""A training of two ranks that is asked to stop goes on with the row that the undisturbed one takes next."""

from __future__ import annotations

from pathlib import Path

import ranks
import tiny
from test_train import two_ranks

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
