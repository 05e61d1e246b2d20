"""The backend that runs on Ray: rollout and judge actors, and Ray Train for the stages' training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from erpo_ray.backend import Ahead, Name
from erpo_ray.cluster.closing import closing
from erpo_ray.cluster.crew import RayCrew
from erpo_ray.cluster.data import read_prompts
from erpo_ray.cluster.job import Job, Progress, Scoring
from erpo_ray.cluster.notes import Notes
from erpo_ray.cluster.pooled import PooledBackend
from erpo_ray.cluster.protocol import Item
from erpo_ray.cluster.start import join, leave
from erpo_ray.cluster.training import Trainers
from erpo_ray.config import Config, Data
from erpo_ray.config.judges import has_model
from erpo_ray.errors import UsageError
from erpo_ray.prompts.mixing import Mix
from erpo_ray.telemetry import Standing
from erpo_ray.types import Candidate, Policy, Request, Verdict
from erpo_ray.usage import Growth, Upkeep


class RayBackend(PooledBackend):
    """Joins or starts a cluster.

    Raises EnvironmentFault when it cannot be reached or is too small, UsageError when the settings do not fit it.
    """

    def __init__(self, config: Config, progress: Progress = lambda step, steps, metrics: None) -> None:
        judges = config.cluster.judge_workers if has_model(config.judge) else 0
        self._joined = join(config.cluster, judges)
        try:
            self._require_apart(config)
            notes = Notes()
            self._workers = RayCrew(config, self._joined, notes)
        except BaseException:
            leave(self._joined)
            raise
        self._trainers = Trainers(config.cluster, self._joined, judges, config.batches, self._workers.present)
        self._growth = Growth(config.cluster.growth_gib)
        self._apart = self._joined.gpu and not config.cluster.share_gpu
        super().__init__(config, self._workers, progress, notes)

    def _require_apart(self, config: Config) -> None:
        if config.overlap != "none" and self._joined.gpu and config.cluster.share_gpu:
            raise UsageError(
                f"overlap is {config.overlap}, but engine and trainers take turns on the same GPUs; "
                "set cluster.share_gpu=false or overlap=none"
            )
        cluster = config.cluster
        if self._joined.gpu and cluster.share_gpu and cluster.train_workers > cluster.rollout_workers:
            raise UsageError(
                f"cluster.train_workers ({cluster.train_workers}) exceeds cluster.rollout_workers "
                f"({cluster.rollout_workers}), and they share GPUs: Ray would put two trainers on one; raise "
                "rollout_workers or set cluster.share_gpu=false"
            )

    def prompts(self, data: Data, categories: Sequence[str], seed: int) -> Mix:
        """All prompts of a run, each source read by a Ray Data task."""
        return read_prompts(data, categories, seed)

    def expect(self, policy: Policy) -> None:
        """The rollout workers start, while prompts are read and the judge is proved."""
        self._workers.serve(policy)

    def rollouts(
        self, requests: Iterable[Request], unjudged: Sequence[Item], name: Name, ahead: Ahead | None = None
    ) -> Iterator[Candidate | Verdict]:
        """As every backend's. Trainers start meanwhile; those with GPUs of their own score groups as they close.

        Elsewhere engine and trainers share what they run on, and most of what is scored stands in no pair at the end.
        """
        wanted = list(requests)
        items = super().rollouts(wanted, unjudged, name)
        if not ahead or not wanted:
            return items
        self._trainers.start(ahead.work)
        reference = ahead.reference
        if not self._apart or not reference:
            return items
        return closing(
            items,
            wanted,
            ahead.training.max_length,
            lambda rows: self._trainers.score(
                Scoring(reference, rows, ahead.training, ahead.kept.resolve(), ahead.work.resolve(), ahead.by_token)
            ),
        )

    def upkeep(self) -> Upkeep:
        """Of all actors; rollout and judge workers that have grown too much are replaced."""
        held = self._workers.usage()
        grown = self._growth.beyond(held)
        for name in grown:
            self._workers.replace(name)
            self._renewed = True
        return Upkeep({**held, **self._trainers.usage()}, grown)

    def standing(self) -> Standing:
        """As every backend's, with the trainers: none before the first training."""
        found = super().standing()
        return replace(found, workers={**found.workers, "train": self._trainers.living()})

    def close(self) -> None:
        """End the workers; a cluster we started ends too."""
        super().close()
        self._trainers.close()
        leave(self._joined)

    def _train(self, job: Job) -> dict[str, float]:
        if self._joined.gpu and self._config.cluster.share_gpu:
            self._workers.sleep(self.policy(job.policy))
        return self._trainers.train(job, self._progress)
