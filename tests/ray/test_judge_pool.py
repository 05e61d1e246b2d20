"""The configured judge in a Ray actor: rules, a guard on vLLM and a reward model, and one verdict of them all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tiny

from erpo_ray import preflight, rules
from erpo_ray.cluster.backend import RayBackend
from erpo_ray.config import Config
from erpo_ray.engines.models import EMBEDDED
from erpo_ray.judging.canaries import cases
from erpo_ray.types import Verdict, identity


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    reward = tiny.reward(tmp_path_factory.mktemp("models") / "reward")
    guard = {"type": "guard", "model": EMBEDDED, "format": "generic", "max_length": 1024, "kv_cache_gib": 0.25}
    members = [
        {"judge": {"type": "rules"}},
        {"judge": guard, "name": "small", "safety": 0.0},
        {"judge": {"type": "reward_model", "model": str(reward), "axis": "utility", "max_length": 128}, "utility": 0.5},
    ]
    return Config.model_validate({"judge": {"type": "ensemble", "members": members, "quorum": 2}})


@pytest.fixture(scope="module")
def verdicts(config: Config) -> Iterator[list[Verdict]]:
    preflight.judge(config.judge, rules.load())
    backend = RayBackend(config)
    yield [item for item in backend.rollouts((), cases(), identity) if isinstance(item, Verdict)]
    backend.close()


def test_every_member_is_heard(verdicts: list[Verdict]) -> None:
    assert [v.candidate_id for v in verdicts] == [candidate.id for _, candidate in cases()]
    for verdict in verdicts:
        assert [opinion.judge for opinion in verdict.opinions] == ["rules", "small", "reward_utility"]
        alone, guard, reward = verdict.opinions
        assert alone.scores is not None
        assert reward.partial is not None and reward.partial.utility is not None and reward.partial.safety is None
        assert guard.failure or (guard.partial and guard.partial.safety is not None)


def test_the_joined_verdict_follows_weights(verdicts: list[Verdict]) -> None:
    for verdict in verdicts:
        alone, _, reward = verdict.opinions
        assert verdict.judge == "ensemble" and verdict.scores and alone.scores
        assert reward.partial and reward.partial.utility is not None
        # The guard has no weight and no veto; the reward model half the weight of the rules.
        assert verdict.scores.safety == alone.scores.safety
        mean = (alone.scores.utility + 0.5 * reward.partial.utility) / 1.5
        assert verdict.scores.utility == pytest.approx(mean)
