"""Two evaluations compared prompt by prompt: how much a metric changed, how sure that is, which prompts turned over.

Values are joined by prompt id; what only one side has is counted and takes no part. Outcomes given as bool are tested
with McNemar's exact test, numbers with a paired permutation test, p is two-sided, and several metrics are corrected
together after Holm. Ids that belong to one prompt (its attack templates, its turns: `intervals.origin`) are one draw:
their differences are resampled, and change sign, together; of outcomes too, for which McNemar's test does not hold
then. Differences are `after - before`. Random numbers come from a fixed seed: the same values give the
same figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from erpo_ray.evaluate import intervals
from erpo_ray.types import Rate

Values = Mapping[str, bool] | Mapping[str, float]
"""One metric of one evaluation by prompt id. A prompt that failed is left out, never given a number."""

_ENDLESS = (-math.inf, math.inf)

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric on the prompts that both evaluations have.

    `difference`: its mean with a 95% interval; None without a common prompt. `p_adjusted` is `p` after Holm.
    `gained` and `lost`: sorted ids whose outcome turned true, or false; empty for numbers. `only_before`, `only_after`:
    prompts that one side lacks.
    """

    difference: Rate | None
    test: Literal["mcnemar", "permutation"]
    p: float
    p_adjusted: float
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    only_before: int
    only_after: int


def compare(
    metrics: Mapping[str, tuple[Values, Values]], scales: Mapping[str, tuple[float, float]] | None = None
) -> dict[str, Comparison]:
    """Every metric, given as its values (before, after), in the order given; p is adjusted over all of them.

    `scales` are the least and the most that numbers can be, for metrics where that is known. Raises ValueError for a
    value that is not finite and for a metric that mixes outcomes and numbers.
    """
    binary = {name: _is_binary(name, *values) for name, values in metrics.items()}
    common = {name: sorted(before.keys() & after.keys()) for name, (before, after) in metrics.items()}
    turned = {name: _turned(*metrics[name], ids) if binary[name] else ((), ()) for name, ids in common.items()}
    differences = {name: _differences(*metrics[name], ids) for name, ids in common.items()}
    exact = {name: binary[name] and len(set(map(intervals.origin, ids))) == len(ids) for name, ids in common.items()}
    p = {
        name: mcnemar(*map(len, turned[name]))
        if exact[name]
        else permutation(intervals.cluster_sums(differences[name], common[name]))
        for name in metrics
    }
    adjusted = holm(p)
    ends = {name: (0.0, 1.0) if binary[name] else (scales or {}).get(name, _ENDLESS) for name in metrics}
    return {
        name: Comparison(
            difference=mean_difference(differences[name], common[name], *ends[name]),
            test="mcnemar" if exact[name] else "permutation",
            p=p[name],
            p_adjusted=adjusted[name],
            gained=turned[name][0],
            lost=turned[name][1],
            only_before=len(before) - len(common[name]),
            only_after=len(after) - len(common[name]),
        )
        for name, (before, after) in metrics.items()
    }


def _is_binary(name: str, before: Values, after: Values) -> bool:
    values = [*before.values(), *after.values()]
    outcomes = sum(isinstance(value, bool) for value in values)
    if 0 < outcomes < len(values):
        raise ValueError(f"{name}: {outcomes} of {len(values)} values are outcomes, the others numbers")
    for side in (before, after):
        for id, value in side.items():
            if not math.isfinite(value):
                raise ValueError(f"{name}: the value {value} of prompt {id!r} is not finite")
    return outcomes > 0


def _turned(before: Values, after: Values, ids: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The ids whose outcome turned true, and those whose outcome turned false."""
    gained = tuple(id for id in ids if after[id] and not before[id])
    return gained, tuple(id for id in ids if before[id] and not after[id])


def _differences(before: Values, after: Values, ids: Sequence[str]) -> list[float]:
    return [float(after[id]) - float(before[id]) for id in ids]


def mean_difference(
    differences: Sequence[float], prompts: Sequence[str], least: float = -math.inf, most: float = math.inf
) -> Rate | None:
    """The mean of paired differences with its BCa bootstrap interval over prompts; None without any.

    `least` and `most` are the ends of the scale that both sides are on. Differences of few prompts, or that are all
    equal: `intervals.resampled`.
    """
    span = most - least
    return intervals.resampled(differences, prompts, -span, span) if differences else None


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p that as many outcomes turn one way as the other (McNemar 1947); 1 when none turned."""
    # Half a second to load, which no run has to wait for at its start.
    from scipy.stats import binomtest

    if gained + lost == 0:
        return 1.0
    return float(binomtest(gained, gained + lost, 0.5).pvalue)


def permutation(differences: Sequence[float]) -> float:
    """Two-sided p of paired differences under flips of their signs; 1 when all are 0.

    Exact for up to 13 differences that are not 0 (the others do not matter); for more, signs are drawn.
    """
    from scipy.stats import monte_carlo_test, permutation_test

    values: Array = np.asarray([each for each in differences if each != 0], dtype=float)
    n = len(values)
    if n < 2:
        return 1.0
    if 2**n <= intervals.RESAMPLES:
        exact = permutation_test((values,), np.mean, permutation_type="samples", vectorized=True, axis=-1)
        return float(exact.pvalue)
    rng = np.random.default_rng(0)

    # permutation_test draws signs too, as permutations of pairs: 20 times slower, minutes for 10,000 prompts.
    def flipped(size: tuple[int, ...]) -> Array:
        return values * (2 * rng.integers(0, 2, size, dtype=np.int8) - 1)

    drawn = monte_carlo_test(
        values,
        flipped,
        np.mean,
        vectorized=True,
        axis=-1,
        n_resamples=intervals.RESAMPLES,
        batch=max(1, intervals.CELLS // n),
    )
    return float(drawn.pvalue)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p values adjusted so that the chance of any false finding stays below the level (Holm 1979), in the order given.

    The k-th smallest of m is multiplied by m - k + 1; none falls below a smaller one's, none exceeds 1.
    """
    adjusted: dict[str, float] = {}
    least = 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        least = max(least, min(1.0, (len(p) - rank) * p[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in p}
