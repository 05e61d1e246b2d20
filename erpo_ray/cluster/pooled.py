"""What every backend does the same way, whatever its workers run on. Free of Ray."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from erpo_ray import stopping
from erpo_ray.backend import Ahead, Name
from erpo_ray.cluster import canary
from erpo_ray.cluster.job import Job, Progress
from erpo_ray.cluster.notes import Notes
from erpo_ray.cluster.pool import Pool
from erpo_ray.cluster.protocol import Crew, Item
from erpo_ray.cluster.sense import ANY, Sense
from erpo_ray.config import Config
from erpo_ray.config.decoding import SEARCHES
from erpo_ray.engines.renderer import Renderer
from erpo_ray.objectives import Objective, Surrogate, Training
from erpo_ray.telemetry import Present, Standing
from erpo_ray.train.weights import proof_of, version
from erpo_ray.types import Candidate, Policy, Request, Verdict, seed_of
from erpo_ray.usage import Upkeep


class ServingCrew(Crew, Protocol):
    """A crew whose rollout workers can be given a policy."""

    def serve(self, policy: Policy) -> None:
        """All rollout workers have these weights: new workers start with them, running ones load them in place."""
        ...

    def begin(self, seed: int) -> Collection[int]:
        """A new pass: workers drop what they hold and draw from streams that follow from `seed`. Returns the workers
        that have yet to come up."""
        ...

    def served(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> list[canary.Served]:
        """What every rollout worker that is up says it serves; one is up at least."""
        ...

    def trainer_logprobs(
        self, policy: Policy, prompt_ids: Sequence[int], completion_ids: Sequence[int]
    ) -> Callable[[], list[float]]:
        """As the trainer sees the policy's files: a call, which may be computed while the engines load them."""
        ...

    def living(self) -> dict[str, Present]:
        """Workers that are up, by role, as far as is known. For any thread."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...


class PooledBackend(ABC):
    """Engines and judges stay up from their first use to `close`; weights change in place.

    `progress` is told (step, steps, metrics) while a stage trains.
    """

    def __init__(self, config: Config, crew: ServingCrew, progress: Progress, notes: Notes | None = None) -> None:
        self._config, self._crew, self._progress = config, crew, progress
        self._notes = notes or Notes()
        self._proved: canary.Canary | None = None
        self._renewed = False
        # Of the first policy. The later ones have its vocabulary, and a canary is compared with the one before it.
        self._tokens: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        self._sense = ANY

    def policy(self, path: Path) -> Policy:
        """The policy in a model directory."""
        return Policy(path.resolve(), version(path))

    def prepare(self, policy: Policy) -> None:
        """Every rollout worker serves `policy` and has proved it against the trainer's numbers. RunFailed otherwise."""
        if self._proved and self._proved.version == policy.version and not self._renewed:
            self._crew.serve(policy)
            return
        if self._tokens is None:
            renderer = Renderer(policy.path)
            self._tokens = renderer.render(canary.PROMPT), renderer.encode_completion(canary.COMPLETION)
            vocabulary = json.loads((policy.path / "config.json").read_text()).get("vocab_size", 0)
            plain = self._config.evaluate.decode.name == "plain"
            self._sense = Sense(None, vocabulary, renderer.stop_ids, renderer.decode, exact=plain)
        tokens = self._tokens
        proof = proof_of(policy, *tokens)
        computed = (lambda: proof.logprobs) if proof else self._crew.trainer_logprobs(policy, *tokens)
        self._crew.serve(policy)
        engines, trainer = self._crew.served(*tokens), computed()
        tolerance = self._config.cluster.canary_tolerance
        self._sense = replace(self._sense, policy=policy)
        proofs = [canary.prove(policy, engine, trainer, self._proved, tolerance) for engine in engines]
        self._proved, self._renewed = proofs[0], False

    def rollouts(
        self, requests: Iterable[Request], unjudged: Sequence[Item], name: Name, ahead: Ahead | None = None
    ) -> Iterator[Candidate | Verdict]:
        """Each candidate before a judge sees it, each verdict when it comes. If there are requests, `prepare` first."""
        wanted = list(requests)
        # A resumed pass wants fewer samples, and must not draw what the first one drew.
        left = sum(len(request.samples) for request in wanted)
        first = [name(request.prompt.id, request.samples[0]) for request in wanted[:1]]
        # Where nothing is to be drawn, as when the judge is proved, nobody waits for engines that start.
        absent = self._crew.begin(seed_of(self._config.seed, *first, left)) if wanted else ()
        in_flight, asks = self._config.cluster.in_flight, self._config.evaluate.decode.name in SEARCHES
        pool = Pool(
            self._crew,
            wanted,
            unjudged,
            name,
            in_flight,
            absent=absent,
            note=self._notes,
            asks=asks,
            sense=self._sense,
            stop=stopping.asked,
        )
        return pool.run()

    def imitate(self, policy: Policy, examples: Path, training: Training, out: Path, work: Path) -> dict[str, float]:
        """Train on the examples file; a model directory appears in `out`. `work` keeps checkpoints over crashes."""
        return self._train(self._job(policy, examples, training, out, work))

    def prefer(
        self,
        policy: Policy,
        reference: Policy,
        pairs: Path,
        objective: Objective,
        training: Training,
        out: Path,
        work: Path,
        kept: Path,
    ) -> dict[str, float]:
        """Train on the pairs file against `reference`; a model directory appears in `out`.

        `kept` is the folder of what was scored under references.
        """
        job = self._job(policy, pairs, training, out, work)
        return self._train(replace(job, reference=reference.path.resolve(), objective=objective, kept=kept.resolve()))

    def reinforce(
        self,
        policy: Policy,
        reference: Policy,
        advantages: Path,
        objective: Surrogate,
        training: Training,
        out: Path,
        work: Path,
        kept: Path,
    ) -> dict[str, float]:
        """Train on the advantages file, as `prefer` does on pairs."""
        job = self._job(policy, advantages, training, out, work)
        return self._train(replace(job, reference=reference.path.resolve(), objective=objective, kept=kept.resolve()))

    def instruct(self, policy: Policy, system: str, out: Path) -> dict[str, float]:
        """The policy's directory with `system` in its chat template."""
        from erpo_ray.engines.instruct import instruct

        instruct(policy.path, system, out)
        return {}

    def upkeep(self) -> Upkeep:
        """Nothing: the workers are in the driver's own process."""
        return Upkeep({})

    def standing(self) -> Standing:
        """Which workers are up, and what was said of those that were lost."""
        return Standing(self._crew.living(), self._notes.last)

    def close(self) -> None:
        """End the workers."""
        self._crew.close()

    def _job(self, policy: Policy, rows: Path, training: Training, out: Path, work: Path) -> Job:
        paths = policy.path.resolve(), rows.resolve(), training, out.resolve(), work.resolve()
        return Job(*paths, canary=self._tokens)

    @abstractmethod
    def _train(self, job: Job) -> dict[str, float]: ...
