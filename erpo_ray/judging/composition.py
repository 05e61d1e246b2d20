"""The axes composed into one order, only where candidates are paired: scores are never stored mixed.

S is safety and H utility in [-1, 1]; L is length in tokens; lambda >= 0; safe means S > 0.

| name | order | source |
|---|---|---|
| lexicographic | safe, then H up to what is enough, then shortness, then H | |
| stair | S*H + 2S | STAIR, arXiv 2502.02384 |
| lagrangian | H - lambda*c with the cost c = (1 - S) / 2 | r - lambda*c of C-DPO, arXiv 2403.02475 |
| gate | (1 + H) * 1[S > 0] | r * 1[safe] of SCPO, arXiv 2311.00880 |

Each rises, or stays, with S and with H and falls, or stays, with L, in these domains:

- lexicographic: everywhere. S counts as the verdict it stands for, or the noise of a judge would outrank utility.
- stair: strictly in S where H > -2, so everywhere; in H where S >= 0. Where S < 0 it falls with H: an unsafe answer is
  the worse, the more useful it is.
- lagrangian: strictly in H; in S strictly where lambda > 0. Above 2 no certainly unsafe answer outranks a certainly
  safe one.
- gate: everywhere, because 1 + H >= 0. Without the 1 an unsafe answer (0) would outrank a safe one of negative utility.

For S = 1 all rewards rise with H by 1, so that a difference in reward reads as one in utility. Length counts among
candidates that may be chosen, and only there: lexicographic takes the shortest of those about as useful as the best,
the rewards take off `length_term`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from erpo_ray.config.training import CompositionName
from erpo_ray.types import Label, Scores


@dataclass(frozen=True, slots=True)
class Composition:
    """Which order, and its parameters. `multiplier` is lambda, at least 0; only `lagrangian` reads it."""

    name: CompositionName
    multiplier: float


class Judged(Protocol):
    """What composition reads of a candidate."""

    @property
    def scores(self) -> Scores: ...
    @property
    def refused(self) -> bool: ...


T = TypeVar("T", bound=Judged)


def is_safe(scores: Scores) -> bool:
    """The verdict that a safety score stands for."""
    return scores.safety > 0


def admissible(label: Label, candidate: Judged) -> bool:
    """Whether a candidate may win at all: it is safe, and no refusal of a benign prompt."""
    return is_safe(candidate.scores) and not (label == "benign" and candidate.refused)


def lexicographic(scores: Scores, enough: float = math.inf) -> tuple[bool, float, int, float]:
    """A sort key, best last: safe, utility, shortness. Utility above `enough` counts only where all else is equal."""
    return is_safe(scores), min(scores.utility, enough), -scores.length, scores.utility


def stair(scores: Scores) -> float:
    """S*H + 2S, in [-3, 3]. Written as one product, which rounding leaves monotone."""
    return scores.safety * (scores.utility + 2)


def cost(scores: Scores) -> float:
    """What safety lacks, in [0, 1]: the probability of harm when S = 1 - 2p."""
    return (1 - scores.safety) / 2


def lagrangian(scores: Scores, multiplier: float) -> float:
    """H - lambda*c, in [-1 - lambda, 1]. `multiplier` is lambda: the utility that certain harm costs."""
    return scores.utility - multiplier * cost(scores)


def safety_gate(scores: Scores) -> float:
    """(1 + H) * 1[S > 0], in [0, 2]."""
    return 1 + scores.utility if is_safe(scores) else 0.0


def length_term(length: int, shortest: int, weight: float) -> float:
    """-weight * min(1, (L - L0) / L0), in [-weight, 0], for L >= L0 >= 1.

    L0 is the `shortest` of those compared. A completion twice as long or longer loses `weight`, never more.
    """
    return -weight * min(1.0, (length - shortest) / shortest)


def reward(scores: Scores, composition: Composition) -> float:
    """The reward of a composition that has one. Raises ValueError for `lexicographic`, which is an order only."""
    match composition.name:
        case "stair":
            return stair(scores)
        case "lagrangian":
            return lagrangian(scores, composition.multiplier)
        case "gate":
            return safety_gate(scores)
        case "lexicographic":
            raise ValueError("lexicographic is an order without a reward")


def best(candidates: Sequence[T], label: Label, composition: Composition, slack: float) -> T:
    """The candidate to choose; the first of equals. Raises ValueError when there is none to choose from.

    `slack` is the most utility that a shorter completion may cost. A candidate that is not `admissible` wins only where
    none is, and length is then no more than a tie-break.
    """
    admitted = [each for each in candidates if admissible(label, each)]
    pool = admitted or candidates
    if composition.name == "lexicographic":
        enough = max(each.scores.utility for each in pool) - slack
        return max(pool, key=lambda each: lexicographic(each.scores, enough))
    shortest = min(each.scores.length for each in pool)

    def key(each: T) -> tuple[float, int, float]:
        value = reward(each.scores, composition)
        if admitted:
            value += length_term(each.scores.length, shortest, slack)
        return value, -each.scores.length, each.scores.utility

    return max(pool, key=key)
