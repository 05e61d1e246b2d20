"""The backend that runs on Ray: rollout and judge actors, and Ray Train for the stages' training."""

from __future__ import annotations

from collections.abc import Sequence

from erpo_ray.cluster.crew import RayCrew
from erpo_ray.cluster.data import read_prompts
from erpo_ray.cluster.job import Job, Progress
from erpo_ray.cluster.pooled import PooledBackend
from erpo_ray.cluster.start import join, leave
from erpo_ray.cluster.training import Trainers
from erpo_ray.config import Config, Data
from erpo_ray.engines.judges import has_model
from erpo_ray.prompts.mixing import Mix


class RayBackend(PooledBackend):
    """Joins or starts a cluster. Raises EnvironmentFault when it cannot be reached or is too small."""

    def __init__(self, config: Config, progress: Progress = lambda step, steps, metrics: None) -> None:
        judges = config.cluster.judge_workers if has_model(config.judge) else 0
        self._joined = join(config.cluster, judges)
        self._workers = RayCrew(config, self._joined)
        self._trainers = Trainers(config.cluster, self._joined)
        super().__init__(config, self._workers, progress)

    def prompts(self, data: Data, categories: Sequence[str], seed: int) -> Mix:
        """All prompts of a run, each source read by a Ray Data task."""
        return read_prompts(data, categories, seed)

    def close(self) -> None:
        """End the workers; a cluster we started ends too."""
        super().close()
        self._trainers.close()
        leave(self._joined)

    def _train(self, job: Job) -> dict[str, float]:
        if self._joined.gpu and self._config.cluster.share_gpu:
            self._workers.sleep()
        return self._trainers.train(job, self._progress)
