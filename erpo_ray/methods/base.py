"""What a method is made of: stages, and the world they see. A method never knows where it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from erpo_ray.config import Config
from erpo_ray.rules import Category, RuleBook
from erpo_ray.traces import Trace
from erpo_ray.types import (
    Advantage,
    Evaluation,
    Example,
    Failure,
    Group,
    LeftOut,
    Objective,
    Pair,
    Policy,
    Prompt,
    Request,
    Surrogate,
    Training,
)


class Renderer(Protocol):
    """The one way from text to the policy's token ids and back (rollout, judge and trainer share it)."""

    def render(self, text: str) -> tuple[int, ...]: ...
    def encode_completion(self, text: str) -> tuple[int, ...]: ...
    def pieces(self, ids: Sequence[int]) -> list[str]: ...
    def count(self, text: str) -> int: ...
    def under(self, system: str) -> Renderer: ...


class Teacher(Protocol):
    """Writes the ex-ante trace for a prompt, its category and a target answer (None asks for a refusal)."""

    def write(self, prompt: Prompt, category: Category, answer: str | None, seed: int) -> Trace | Failure: ...


@dataclass(frozen=True, slots=True)
class Task:
    """What every stage may read: prompts to train on, rules, renderer, teacher and settings."""

    config: Config
    base: Policy
    prompts: tuple[Prompt, ...]
    book: RuleBook
    renderer: Renderer
    teacher: Teacher


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished stage tells the next one; kept in its `stage.json`.

    `policy` is the one to go on with and `evaluation` its figures; `measured` are those of the policy the stage
    trained, which a rejecting gate leaves behind. `lengths` is the median length in tokens of passing candidates by
    label, `missed` the prompts whose group held an error (complied with harm, refused the harmless), `state` what the
    method keeps of its own. `staleness` is how many accepted rounds lie between the policy that drew the samples and
    the one that was trained.
    """

    stage: str
    kind: str
    accepted: bool
    reason: str
    policy: Policy
    evaluation: Evaluation
    measured: Evaluation
    lengths: dict[str, float]
    missed: tuple[str, ...]
    state: dict[str, float] = field(default_factory=dict)
    staleness: int = 0


@dataclass(frozen=True, slots=True)
class History:
    """What happened before a stage: every outcome (the base model's first) and the negatives of the imitate stage."""

    outcomes: tuple[Outcome, ...]
    negatives: Sequence[Pair] = ()

    @property
    def last(self) -> Outcome:
        return self.outcomes[-1]

    def drawn_after(self, kind: str, overlap: str) -> History:
        """What was known when a stage of this kind drew its samples: all of it, or one round less with `next_round`.

        Only a prefer stage after another one draws ahead. That follows from the configuration alone, so that samples
        drawn after a crash come from the policy that drew those before it.
        """
        ahead = overlap == "next_round" and kind == self.last.kind == "prefer"
        return replace(self, outcomes=self.outcomes[:-1]) if ahead else self

    def reference(self, name: str) -> Policy:
        """The policy that `reference` names: the last accepted one, that of the imitate stage, or the base model.

        For `none` too it is the last accepted one, which nothing reads then.
        """
        if name in ("previous", "none"):
            return self.last.policy
        if name == "base":
            return self.outcomes[0].policy
        return next((o.policy for o in self.outcomes if o.kind == "imitate" and o.accepted), self.outcomes[0].policy)


class Imitate(Protocol):
    """A stage of supervised training on examples."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Literal["imitate"]: ...
    @property
    def training(self) -> Training: ...

    def requests(self, task: Task, history: History) -> list[Request]: ...
    def examples(self, task: Task, groups: Sequence[Group]) -> tuple[list[Example], list[LeftOut]]: ...
    def negatives(self, task: Task, rows: Sequence[Example]) -> list[Pair]: ...


class Prefer(Protocol):
    """A stage of preference training on judged groups.

    `traced`: a candidate has to reason in due form to pass. `follow` asks for more behind what was drawn, and is asked
    again until it wants nothing; `state` is what the method carries to its next stage beside
    the policy; `over` says that it reached its end, and neither this stage nor one after it is played. All depend on
    their arguments alone, so that a continued run finds what the first start found.
    """

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Literal["prefer"]: ...
    @property
    def training(self) -> Training: ...
    @property
    def objective(self) -> Objective: ...
    @property
    def traced(self) -> bool: ...

    def requests(self, task: Task, history: History) -> list[Request]: ...
    def follow(self, task: Task, history: History, groups: Sequence[Group]) -> list[Request]: ...
    def pairs(self, task: Task, history: History, groups: Sequence[Group]) -> tuple[list[Pair], list[LeftOut]]: ...
    def state(self, history: History, groups: Sequence[Group]) -> dict[str, float]: ...
    def over(self, history: History) -> bool: ...


class Reinforce(Protocol):
    """A stage of policy gradient on the rewards of judged groups. What it shares with `Prefer` means the same there.

    `shorten`: rewards charge for length.
    """

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Literal["reinforce"]: ...
    @property
    def training(self) -> Training: ...
    @property
    def objective(self) -> Surrogate: ...
    @property
    def traced(self) -> bool: ...
    @property
    def shorten(self) -> bool: ...

    def requests(self, task: Task, history: History) -> list[Request]: ...
    def follow(self, task: Task, history: History, groups: Sequence[Group]) -> list[Request]: ...
    def advantages(
        self, task: Task, history: History, groups: Sequence[Group]
    ) -> tuple[list[Advantage], list[LeftOut]]: ...
    def state(self, history: History, groups: Sequence[Group]) -> dict[str, float]: ...
    def over(self, history: History) -> bool: ...


@dataclass(frozen=True, slots=True)
class Tried:
    """A system prompt that a stage tried: what made it, its means in [0, 1], or why there was nothing to try.

    An empty `system` is the chat template's own.
    """

    operator: str
    system: str
    safety: float | None = None
    utility: float | None = None
    failure: Failure | None = None


class Evolve(Protocol):
    """A stage that looks for a system prompt. `follow` is as in `Prefer`.

    Once it wants no more, it is asked for the `best` and for all that it `tried`, in order.
    """

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Literal["evolve"]: ...

    def requests(self, task: Task, history: History) -> list[Request]: ...
    def follow(self, task: Task, history: History, groups: Sequence[Group]) -> list[Request]: ...
    def best(self, task: Task, groups: Sequence[Group]) -> str: ...
    def tried(self, task: Task, groups: Sequence[Group]) -> tuple[Tried, ...]: ...


Stage = Imitate | Prefer | Reinforce | Evolve
