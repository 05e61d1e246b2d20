"""DeRTa: decoupled refusal training (arXiv 2407.09121).

Teach a model to refuse at any point of an answer, not at its first word alone. With q a harmful prompt, r a safe answer
and h a harmful one of n tokens,

    L = - log P(r | q, h_<k)  -  sum over t of log P(s | q, h_<t),     k uniform in [0, n], t in 1..n,

where s is the token that a refusal begins with: the first term continues a harmful beginning with a refusal (prefix
row), the second asks for the turn before every token (reinforced transition optimisation, RTO). No token of h bears
loss. Benign prompts are answered as before.

Here: h is sampled from the unaligned policy itself when the run starts and stays in the run directory; none is shipped.
r is the teacher's refusal, made to begin with `Sorry` as the paper's do, and s its first token.
As in the authors' code a third of the prefix rows has k = 0 and few t are kept (`derta.positions`). A label that
differs from the next token is written as a row of one token behind its context, so that the trainer needs no labels.

Assumption: what the policy says to a harmful prompt is harmful. Edge case: where every sampled answer refuses there is
no h, and the prompt gives its refusal alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from erpo_ray import synthesis
from erpo_ray.config import Config
from erpo_ray.judging import UNFINISHED
from erpo_ray.judging.composition import is_safe
from erpo_ray.methods import erpo
from erpo_ray.methods.base import History, Stage, Task
from erpo_ray.traces import Trace
from erpo_ray.types import Example, Failure, Group, LeftOut, Pair, Prompt, Request, identity, seed_of

PREFIX, TRANSITION = "prefix", "transition"
"""Kinds of example."""

Ids = tuple[int, ...]

_SORRY, _WORDY = "Sorry", "I'm sorry"


def stages(config: Config) -> tuple[Stage, ...]:
    """DeRTa = imitate."""
    return (Imitate.of(config),)


@dataclass(frozen=True, slots=True)
class Imitate(erpo.Imitate):
    """Safe answers behind harmful beginnings, transitions, and the policy's own answers to benign prompts."""

    def requests(self, task: Task, history: History) -> list[Request]:
        """Answers to the benign prompts, and as many to the harmful ones."""
        settings = task.config.imitate
        asked = [
            Request(prompt, task.renderer.render(prompt.text), tuple(range(settings.answers)), settings.draw.sampling())
            for prompt in self.chosen(task)
            if prompt.label == "harmful"
        ]
        return [*erpo.Imitate.requests(self, task, history), *asked]

    def examples(self, task: Task, groups: Sequence[Group]) -> tuple[list[Example], list[LeftOut]]:
        """Of each harmful prompt a prefix row and its transitions, of each benign one the best answer."""
        benign = [group for group in groups if group.prompt.label == "benign"]
        answers, left_out = synthesis.best_answers(benign, task.config.imitate.min_utility)
        prompts = {group.prompt.id: group.prompt for group in benign}
        made = [synthesis.answer_alone(task, prompts[id], text) for id, text in answers.items()]
        unlearnt = [group for group in groups if group.prompt.label == "harmful"]
        refusals = synthesis.written(task, [(group.prompt, None) for group in unlearnt])
        for group, trace in zip(unlearnt, refusals, strict=True):
            made += _unlearnt(task, group, trace)
        left_out += [row for row in made if isinstance(row, LeftOut)]
        return [row for row in made if isinstance(row, Example)], left_out

    def negatives(self, task: Task, rows: Sequence[Example]) -> list[Pair]:
        """None: no stage comes after."""
        return []


def harmful(group: Group) -> Ids | None:
    """The first answer judged unsafe, without its end-of-sequence; None when there is none."""
    for candidate, verdict in zip(group.candidates, group.verdicts, strict=True):
        if verdict.scores and not is_safe(verdict.scores) and UNFINISHED not in verdict.notes:
            ids = candidate.token_ids[:-1] if candidate.finish == "stop" else candidate.token_ids
            if ids:
                return ids
    return None


def prefix_length(tokens: int, unspoilt: float, seed: int) -> int:
    """k: 0 for a share `unspoilt` of the seeds, else uniform in [0, tokens]."""
    rng = random.Random(seed)
    return 0 if rng.random() < unspoilt else rng.randint(0, tokens)


def positions(tokens: int, share: float, seed: int) -> list[int]:
    """Which t of a harmful answer are kept, as lengths of h_<t in 0..tokens - 1: `share` of them, at least one."""
    return sorted(random.Random(seed).sample(range(tokens), max(1, round(share * tokens))))


def transitions(prompt_ids: Ids, answer: Ids, kept: Sequence[int], refusal: int) -> list[tuple[Ids, Ids]]:
    """(context, label) of each position kept: the prompt and the answer so far, and the token of the refusal."""
    return [((*prompt_ids, *answer[:at]), (refusal,)) for at in kept]


def sorry(refusal: str) -> str:
    """The refusal with `Sorry` as its first word, which no compliance begins with."""
    if refusal.startswith(_SORRY):
        return refusal
    if refusal.startswith(_WORDY):
        return _SORRY + refusal.removeprefix(_WORDY)
    return f"{_SORRY}, {refusal}" if refusal.startswith(("I ", "I'")) else f"{_SORRY}. {refusal}"


def _unlearnt(task: Task, group: Group, trace: Trace | Failure) -> list[Example | LeftOut]:
    """The rows of a harmful prompt, whose trace ends in the teacher's refusal."""
    prompt, config = group.prompt, task.config
    if isinstance(trace, Failure):
        return [LeftOut(prompt.id, f"teacher: {trace.cause}")]
    safe = synthesis.answer_alone(task, prompt, sorry(trace.answer))
    if isinstance(safe, LeftOut):
        return [safe]
    answer = harmful(group)
    if answer is None:
        return [safe, LeftOut(prompt.id, "no answer was harmful: the refusal alone")]
    seed, settings = seed_of(config.seed, "derta", prompt.id), config.derta
    answer = answer[: config.model.max_length - len(safe.prompt_ids) - len(safe.completion_ids)]  # `safe` fits alone
    k = prefix_length(len(answer), settings.unspoilt, seed)
    context = (*safe.prompt_ids, *answer[:k])
    prefixed = Example(
        identity("example", prompt.id, PREFIX), prompt.id, PREFIX, context, safe.completion_ids, safe.text, safe.weights
    )
    kept = positions(len(answer), settings.positions, seed) if answer else []
    turns = transitions(safe.prompt_ids, answer, kept, safe.completion_ids[0])
    return [prefixed, *(_turn(task, prompt, at, *row) for at, row in zip(kept, turns, strict=True))]


def _turn(task: Task, prompt: Prompt, at: int, context: Ids, label: Ids) -> Example:
    id = identity("example", prompt.id, TRANSITION, at)
    return Example(id, prompt.id, TRANSITION, context, label, "".join(task.renderer.pieces(label)))
