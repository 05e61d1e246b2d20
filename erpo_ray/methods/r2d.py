"""R2D: Reasoning-to-Defend (arXiv 2502.12970).

Teach a model to reason, and to say behind each step of its reasoning whether what it does is safe, with a pivot token
that is new to its vocabulary: [SAFE], [UNSAFE] or [RETHINK]. With x a prompt, z a reasoning with pivots of T_R tokens,
y the answer of T_A tokens, t+ the pivot at position p that is right of the two settled ones, and t- the other,

    L       = L_SwaRD + L_CPO
    L_SwaRD = - 1/T_R sum over z of log P(z_t | x, z_<t)  -  1/T_A sum over y of log P(y_t | x, z, y_<t)
    L_CPO   = - mean over pivots of log sigmoid(log P(t+ | x, z_<p) - log P(t- | x, z_<p)).

SwaRD, safety-aware reasoning distillation, learns a strong model's reasoning with its pivots, which a guard model tags
anew; contrastive pivot optimisation sets the two settled pivots apart. [RETHINK] bears no contrast. The authors' code
has one mean over all tokens in L_SwaRD (`pivots.normalise: tokens`).

Here: a step is a section of ERPO's trace, in the dialect `pivots`. The teacher's safe and unsafe pivots are put right
by the prompt's label, where the paper asks a guard; benign answers are the policy's own. The two means are halved, so
that a token weighs 1 on average, and L_CPO with them; it has the weight `pivots.weight` besides. The run begins with a
copy of the model that has the tokens, each the mean of the tokens that its text was written in.

Assumption: the label of a prompt holds for every step of its reasoning. Edge case: a trace that ends with the intent
(`imitate.harmful_intents`) has no pivot and no answer: it counts as reasoning alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from erpo_ray.config import Config
from erpo_ray.errors import UsageError
from erpo_ray.methods import erpo
from erpo_ray.methods.base import Renderer, Stage, Task, Teacher
from erpo_ray.rules import Category
from erpo_ray.sections import reasoning_tokens
from erpo_ray.traces import SAFE, SECTIONS, UNSAFE, Trace, pivot
from erpo_ray.types import Contrast, Example, Failure, Group, LeftOut, Pair, Prompt


def stages(config: Config) -> tuple[Stage, ...]:
    """R2D = imitate."""
    if config.model.dialect != "pivots":
        raise UsageError(
            f"model.dialect is {config.model.dialect}, which has no pivots; set it to pivots for method r2d"
        )
    return (Imitate.of(config),)


@dataclass(frozen=True, slots=True)
class Imitate(erpo.Imitate):
    """Both losses in one pass over traces with pivots."""

    def examples(self, task: Task, groups: Sequence[Group]) -> tuple[list[Example], list[LeftOut]]:
        """ERPO's examples with pivots put right, weights of the parts, and contrasts."""
        tagged = replace(task, teacher=Tagged(task.teacher))
        rows, left_out = erpo.Imitate.examples(self, tagged, groups)
        settings, (safe, unsafe) = task.config.pivots, pivot_ids(task.renderer, SAFE, UNSAFE)
        if settings.normalise == "parts":
            mean = fmean(len(row.completion_ids) for row in rows) if rows else 0.0
            rows = [replace(row, weights=_by_part(task.renderer, row, mean)) for row in rows]
        weight = settings.weight / 2 if settings.normalise == "parts" else settings.weight
        if weight:
            rows = [
                replace(row, contrasts=contrasts(row.completion_ids, safe, unsafe), contrast_weight=weight)
                for row in rows
            ]
        return rows, left_out

    def negatives(self, task: Task, rows: Sequence[Example]) -> list[Pair]:
        """None: no stage comes after."""
        return []


@dataclass(frozen=True, slots=True)
class Tagged:
    """A teacher whose safe and unsafe pivots are those of the prompt's label; [RETHINK] stays its own."""

    teacher: Teacher

    def write(self, prompt: Prompt, category: Category, answer: str | None, seed: int) -> Trace | Failure:
        trace = self.teacher.write(prompt, category, answer, seed)
        return trace if isinstance(trace, Failure) else tagged(trace, prompt.label == "harmful")


def tagged(trace: Trace, harmful: bool) -> Trace:
    """The trace with every settled pivot as the label has it."""
    right, wrong = (UNSAFE, SAFE) if harmful else (SAFE, UNSAFE)
    texts = {name: getattr(trace, name) for name in SECTIONS}
    return replace(
        trace, **{name: text.removesuffix(wrong) + right for name, text in texts.items() if pivot(text) == wrong}
    )


def contrasts(ids: Sequence[int], safe: int, unsafe: int) -> tuple[Contrast, ...]:
    """One at each position of a settled pivot: it over the other."""
    other = {safe: unsafe, unsafe: safe}
    return tuple(Contrast(at, token, other[token]) for at, token in enumerate(ids) if token in other)


def part_weights(reasoning: int, answer: int, mean_tokens: float) -> tuple[float, float]:
    """Loss weights of a token of the reasoning and of one of the answer, T / 2 T_R and T / 2 T_A.

    T is the mean number of tokens of a row: over rows of T tokens, the mean over tokens is the mean over rows of
    (1/T_R sum + 1/T_A sum) / 2, whatever the length of each. A part without tokens has weight 0.
    """

    def weight(tokens: int) -> float:
        return mean_tokens / (2 * tokens) if tokens else 0.0

    return weight(reasoning), weight(answer)


def pivot_ids(renderer: Renderer, *pivots: str) -> list[int]:
    """The ids of these pivots. UsageError for a model that does not have them as tokens."""
    found = [renderer.encode_completion(each)[:-1] for each in pivots]
    for each, ids in zip(pivots, found, strict=True):
        if len(ids) != 1:
            raise UsageError(f"the model writes {each} in {len(ids)} tokens; give it the token first (model.dialect)")
    return [ids[0] for ids in found]


def _by_part(renderer: Renderer, row: Example, mean_tokens: float) -> tuple[float, ...]:
    """The row's weights, each times that of its part."""
    tokens = len(row.completion_ids)
    reasoning = reasoning_tokens(renderer.pieces(row.completion_ids)) or tokens
    of_reasoning, of_answer = part_weights(reasoning, tokens - reasoning, mean_tokens)
    factors = (of_reasoning,) * reasoning + (of_answer,) * (tokens - reasoning)
    weights = row.weights or (1.0,) * tokens
    return tuple(round(weight * factor, 4) for weight, factor in zip(weights, factors, strict=True))
