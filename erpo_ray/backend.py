"""What a run asks of the place where it runs: a Ray cluster, or this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from erpo_ray.config import Data
from erpo_ray.objectives import Objective, Surrogate, Training
from erpo_ray.prompts.mixing import Mix
from erpo_ray.telemetry import Standing
from erpo_ray.types import Candidate, Policy, Prompt, Request, Verdict
from erpo_ray.usage import Upkeep

Name = Callable[[str, int], str]
"""The id of a candidate, from the id of its prompt and the number of the sample."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """The training that comes after some rollouts: trainers that stand idle may get ready for it meanwhile.

    `work` and `kept` are the folders that it will be given; they may not be there yet. With a `reference`,
    log-probabilities of the candidates under it will be asked for, with `by_token` those of their tokens.
    """

    training: Training
    work: Path
    kept: Path
    reference: Policy | None = None
    by_token: bool = False


class Backend(Protocol):
    """Where things run: a Ray cluster, or this process. `loop` and the methods see only this."""

    def prompts(self, data: Data, categories: Sequence[str], seed: int) -> Mix:
        """All prompts of a run, read and mixed: by Ray Data on a cluster."""
        ...

    def policy(self, path: Path) -> Policy:
        """The policy in a model directory, with its version."""
        ...

    def expect(self, policy: Policy) -> None:
        """This policy is the first that `prepare` will be asked for: workers may start with it. Returns at once."""
        ...

    def prepare(self, policy: Policy) -> None:
        """Make every rollout worker serve `policy`, in place, and prove it. RunFailed when the weights differ."""
        ...

    def rollouts(
        self,
        requests: Iterable[Request],
        unjudged: Sequence[tuple[Prompt, Candidate]],
        name: Name,
        ahead: Ahead | None = None,
    ) -> Iterator[Candidate | Verdict]:
        """Each candidate before it is judged, each verdict when it comes; no barrier between the two.

        What `ahead` tells may be made use of or not: nothing that is returned depends on it.
        """
        ...

    def imitate(self, policy: Policy, examples: Path, training: Training, out: Path, work: Path) -> dict[str, float]:
        """Train on examples into `out`. `work` outlives a crash: it holds checkpoints, and `telemetry.STEPS`."""
        ...

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
        """Train on pairs, as `imitate` does on examples. `kept` keeps what references were asked, over stages."""
        ...

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
        """Train on advantages of what `policy` sampled, as `prefer` does on pairs."""
        ...

    def instruct(self, policy: Policy, system: str, out: Path) -> dict[str, float]:
        """The policy with a system prompt in its chat template, into `out`; nothing is trained."""
        ...

    def upkeep(self) -> Upkeep:
        """Called between two stages, when no worker has anything to do: those that hold too much are replaced."""
        ...

    def standing(self) -> Standing:
        """Which workers are up, and what went wrong last; it waits for nobody. For any thread."""
        ...

    def close(self) -> None: ...
