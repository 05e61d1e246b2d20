"""ERPO: Ex-Ante Reasoning Preference Optimization (arXiv 2504.02725v1).

Three stages. (1) Imitate: supervised ex-ante reasoning. Every prompt has a risk category c = M_cls(x); a teacher writes
the thought z from (x, rule(c), known good answer y); the policy learns z then y. (2) Prefer: DPO on sampled candidates
and on negative thoughts, for safety, usefulness and efficiency. (3) Prefer, N rounds: length-controlled iterative
preference optimisation; each round samples from the last policy, makes it the reference, and tightens the length cap.

    (1)       -log p(z, y | x)
    (2), (3)  -log sigmoid(beta * [log-ratio of chosen - log-ratio of rejected] + gamma * (|chosen| - |rejected|))
              - nll * log p(chosen) / |chosen|

with chosen and rejected completions (z, y) of one x, and gamma above 0 in (3) only, on pairs that are about length: a
shorter chosen side leaves more to learn. DPO and the stages are the paper's; the length term (R-DPO's) and the anchor
are assumed, and every number is a config field, since none of the paper's could be read.

Assumption: a policy that learnt to name the risk and the rule before it answers, answers by them. Edge case: in a group
in which no candidate passes nothing is chosen, and the prompt comes first in the next round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from erpo_ray import offpolicy, sections, synthesis
from erpo_ray import pairs as pairing
from erpo_ray.config import Config
from erpo_ray.methods import reinforced
from erpo_ray.methods.base import History, Stage, Task
from erpo_ray.methods.rounds import Round
from erpo_ray.prompts.mixing import choose_balanced
from erpo_ray.types import Example, Group, LeftOut, Pair, Prompt, Request, Training, seed_of


def stages(config: Config) -> tuple[Stage, ...]:
    """ERPO = imitate, prefer, prefer x N with a shrinking length cap, or reinforce x N with a charge for length."""
    length = config.model.max_length
    prefer, traced = config.prefer.fit.training(length, config.seed), config.imitate.traces
    numbers = range(1, config.rounds.count + 1)
    rounds: tuple[Stage, ...] = (
        reinforced.rounds(config, numbers)
        if config.rounds.kind == "reinforce"
        else tuple(
            Prefer(n, prefer, config.prefer.objective(gamma=config.rounds.gamma), traced, shorten=True) for n in numbers
        )
    )
    return (
        Imitate.of(config),
        Prefer(0, prefer, config.prefer.objective(), traced),
        *rounds,
    )


@dataclass(frozen=True, slots=True)
class Imitate:
    """Stage 1. Refusals come from the teacher, benign answers from the policy itself (sampled, judged, best kept)."""

    training: Training
    name: str = "imitate"
    kind: Literal["imitate"] = "imitate"

    @classmethod
    def of(cls, config: Config) -> Self:
        """The stage with the training of `imitate.fit`."""
        return cls(config.imitate.fit.training(config.model.max_length, config.seed))

    def chosen(self, task: Task) -> list[Prompt]:
        """The prompts of this stage, balanced over categories, in an order that depends on the seed alone."""
        settings = task.config.imitate
        return choose_balanced(task.prompts, settings.harmful, settings.benign, seed_of(task.config.seed, self.name))

    def told_apart(self, task: Task, chosen: Sequence[Prompt]) -> list[Prompt]:
        """The further prompts, beside the chosen ones, of which only the intent is taught."""
        used = {prompt.id for prompt in chosen}
        rest = [prompt for prompt in task.prompts if prompt.id not in used]
        settings = task.config.imitate
        seed = seed_of(task.config.seed, self.name)
        return choose_balanced(rest, settings.harmful_intents, settings.benign_intents, seed)

    def requests(self, task: Task, history: History) -> list[Request]:
        """Ask the policy for short answers to the benign prompts; the hint that makes them short is not trained on."""
        settings = task.config.imitate
        return [
            Request(
                prompt,
                task.renderer.render(f"{prompt.text}\n{settings.answer_hint}"),
                tuple(range(settings.answers)),
                settings.draw.sampling(),
            )
            for prompt in self.chosen(task)
            if prompt.label == "benign"
        ]

    def examples(self, task: Task, groups: Sequence[Group]) -> tuple[list[Example], list[LeftOut]]:
        """One example a prompt: the teacher's trace, then its refusal or the best answer the policy gave.

        Behind them the prompts of which only the intent is taught.
        """
        answers, left_out = synthesis.best_answers(groups, task.config.imitate.min_utility)
        chosen = self.chosen(task)
        rows, left_out = synthesis.examples(task, chosen, answers, left_out)
        beginnings, too = synthesis.beginnings(task, self.told_apart(task, chosen))
        return [*rows, *beginnings], [*left_out, *too]

    def negatives(self, task: Task, rows: Sequence[Example]) -> list[Pair]:
        """Off-policy negatives for stage 2: the example over a thought that goes wrong."""
        return synthesis.negative_pairs(task, rows)


@dataclass(frozen=True, slots=True)
class Prefer(Round):
    """Stages 2 and 3. `shorten` controls length (stage 3)."""

    shorten: bool = False

    def cap(self, task: Task, history: History) -> dict[str, int]:
        """The length cap of this round by label: a share of the last round's median passing length (stage 3 only)."""
        if not self.shorten:
            return {}
        rounds = task.config.rounds
        return pairing.next_cap(history.last.lengths, rounds.cap_ratio, rounds.cap_min)

    def pairs(self, task: Task, history: History, groups: Sequence[Group]) -> tuple[list[Pair], list[LeftOut]]:
        """Safe over unsafe, answered over refused, useful over empty, short over long; in stage 2 the negatives too."""
        settings, seed = task.config.prefer, self.seed(task)
        cap = self.cap(task, history)
        pairs, left_out = pairing.choose(
            groups, settings, cap=cap, prefer_short=self.shorten, seed=seed, traced=self.traced
        )
        if settings.section_weights:
            pairs = sections.by_section(pairs, groups, task.config.model.dialect, task.renderer.pieces)
        if not self.shorten:
            pairs += offpolicy.sample_negatives(history.negatives, settings.negatives, seed)
        return pairs, left_out
