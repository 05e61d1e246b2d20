"""95% intervals of shares, means and paired differences whose rows come in clusters: several rows of one prompt.

Samples of a prompt, its attack templates, its transforms and its second turn say much the same; counted as if each
were a prompt of its own they give intervals that are too narrow. So the prompt is what was drawn at random, and rows of
one prompt are a cluster. Rows give their prompt ids; `ID~NAME` belongs to the prompt `ID`. With one row a prompt
everything is the formula for independent rows.

No interval has a width of 0: that nothing varied among a few prompts does not say that nothing varies.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from erpo_ray.judging.calibration import share as wilson
from erpo_ray.types import Rate

Array = np.ndarray[Any, np.dtype[Any]]

FEW = 20
"""Prompts below which Student's t stands in for a bootstrap, whose 95% interval of 8 holds the truth in 85%."""
_Z2 = 1.959963984540054**2
RESAMPLES = 9999
CELLS = 2_000_000
"""Numbers that a batch of resamples may hold: what bounds memory, whatever the number of prompts."""
_EQUAL = 1e-12
"""Spread of values, relative to their size, up to which they are one constant and rounding."""


def origin(prompt_id: str) -> str:
    """The prompt that a row is about: attack templates, transforms and second turns add `~NAME` to its id."""
    return prompt_id.partition("~")[0] or prompt_id


def proportion(hits: int, n: int) -> Rate:
    """A share of independent rows with its Wilson interval (1927); with no rows 0 in [0, 1], and `n` says so."""
    return wilson(hits, n) or Rate(0.0, 0.0, 1.0, 0)


def share(values: Sequence[bool | float], prompts: Sequence[str]) -> Rate:
    """The share of rows that are true (1), with Wilson's interval for as many rows as the clusters are worth.

    With G prompts, of which prompt g has y_g hits in m_g of n rows, p = sum y_g / n has the cluster-robust variance
    v = G / (G - 1) * sum (y_g - p m_g)^2 / n^2 (Cochran 1977, Sampling Techniques, 3rd ed., section 3.12). It is worth
    p (1 - p) / v independent rows (Kish 1965), n at most. Wilson's interval with that number and the quantile of
    Student's t with G - 1 degrees of freedom is that of Korn and Graubard (Survey Methodology 24, 1998, 193) for
    Wilson's formula (Franco, Little, Louis and Slud, JSSAM 7, 2019, 334). Where v tells nothing, for a share of 0 or 1
    and for a single prompt, rows of one prompt count as if they all said the same: n^2 / sum m_g^2 rows.
    """
    n, sums, sizes = _clusters(values, prompts)
    if len(sums) == n:
        return proportion(round(sum(values)), n)
    p = float(sums.sum()) / n
    if len(sums) == 1 or p in (0.0, 1.0):
        return Rate(p, *_wilson(p, n**2 / float((sizes**2).sum()), _Z2), n)
    variance = _variance(sums, sizes)
    worth = min(float(n), p * (1 - p) / variance) if variance else float(n)
    return Rate(p, *_wilson(p, worth, _quantile(len(sums)) ** 2), n)


def mean(values: Sequence[float], prompts: Sequence[str], least: float = -math.inf, most: float = math.inf) -> Rate:
    """The mean of rows with a t interval over prompts, held within `least` and `most`, the ends of the scale.

    mean +- t(.975, G - 1) sqrt(v) with the v of `share`: for one row a prompt that is Student's. Where nothing varied,
    as with a single row, see `constant`. Without rows 0, and `n` says so.
    """
    if not values:
        return Rate(0.0, 0.0, 0.0, 0)
    n, sums, sizes = _clusters(values, prompts)
    value = float(np.asarray(values, dtype=float).mean())
    if _level(values) or len(sums) == 1:
        return constant(value, n, len(sums), least, most)
    half = _quantile(len(sums)) * math.sqrt(_variance(sums, sizes))
    if not half:
        return constant(value, n, len(sums), least, most)
    return Rate(value, max(least, value - half), min(most, value + half), n)


def resampled(
    values: Sequence[float], prompts: Sequence[str], least: float = -math.inf, most: float = math.inf
) -> Rate:
    """The mean of skewed rows, or of paired differences, with a BCa bootstrap over prompts (Efron 1987).

    A prompt is drawn with all its rows. Of fewer than `FEW` prompts `mean` is given. The seed is fixed: the same values
    give the same interval.
    """
    # Half a second to load, which no run has to wait for at its start.
    from scipy.stats import bootstrap

    n, sums, sizes = _clusters(values, prompts)
    if len(sums) < FEW or _level(values) or _level((sums / sizes).tolist()):
        return mean(values, prompts, least, most)
    scale = float(np.abs(sums).max())
    # BCa sums the cubes of what it resamples: of values near 1e-200 these are 0, and the interval is NaN.
    data = (sums / scale,) if len(sums) == n else (sums / scale, sizes)
    interval = bootstrap(
        data,
        np.mean if len(data) == 1 else _ratio,
        paired=len(data) > 1,
        vectorized=True,
        axis=-1,
        n_resamples=RESAMPLES,
        batch=max(1, CELLS // len(sums)),
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    value = float(np.asarray(values, dtype=float).mean())
    return Rate(value, float(interval.low) * scale, float(interval.high) * scale, n)


def constant(value: float, n: int, prompts: int, least: float, most: float) -> Rate:
    """The interval of a mean when all prompts gave one value: as wide as the prompts that were not drawn may make it.

    At most a share q = z^2 / (G + z^2) of prompts says something else (the upper end of Wilson's interval for 0 of G),
    and the furthest it can say is an end of the scale: [value - q (value - least), value + q (most - value)]. For
    a share of 0 or 1 that is Wilson's interval. Where the scale has no end, an end is taken as far off as the value is
    from 0, and 1 at least.
    """
    q = _Z2 / (prompts + _Z2)
    reach = max(abs(value), 1.0)
    low = least if math.isfinite(least) else value - reach
    high = most if math.isfinite(most) else value + reach
    return Rate(value, value - q * (value - low), value + q * (high - value), n)


def balanced(harmful: Rate, answered: Rate) -> Rate:
    """(harmful refused + benign answered) / 2 with an interval from those of the two, which are over other prompts.

    Half the root of the sum of squares of both arms, on each side (square-and-add: Zou and Donner, Statistics in
    Medicine 27, 2008, 1693). `n` is that of the smaller side: 0 where one was not measured, and then the interval is
    [0, 1]. Of two paired differences it gives the difference of two balanced scores in the same way.
    """
    value, n = (harmful.value + answered.value) / 2, min(harmful.n, answered.n)
    if not n:
        return Rate(value, 0.0, 1.0, 0)
    low = value - math.hypot(harmful.value - harmful.low, answered.value - answered.low) / 2
    high = value + math.hypot(harmful.high - harmful.value, answered.high - answered.value) / 2
    return Rate(value, low, high, n)


def cluster_sums(values: Sequence[float], prompts: Sequence[str]) -> list[float]:
    """The sum of the rows of each prompt, in the order in which prompts first come."""
    found: dict[str, float] = {}
    for value, prompt in zip(values, map(origin, prompts), strict=True):
        found[prompt] = found.get(prompt, 0.0) + value
    return list(found.values())


def _clusters(values: Sequence[float], prompts: Sequence[str]) -> tuple[int, Array, Array]:
    """Number of rows; sum and number of rows of each prompt, in one order."""
    sizes = Counter(map(origin, prompts))
    return len(values), np.array(cluster_sums(values, prompts)), np.array(list(sizes.values()), dtype=float)


def _variance(sums: Array, sizes: Array) -> float:
    count, n = len(sums), float(sizes.sum())
    apart = sums - sums.sum() / n * sizes
    return count / (count - 1) * float((apart**2).sum()) / n**2


def _ratio(sums: Array, sizes: Array, axis: int = -1) -> Array:
    return sums.sum(axis) / sizes.sum(axis)


def _quantile(prompts: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, prompts - 1))


def _wilson(p: float, n: float, z2: float) -> tuple[float, float]:
    centre, scale = p + z2 / (2 * n), 1 + z2 / n
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n)))
    return max(0.0, min(p, (centre - half) / scale)), min(1.0, max(p, (centre + half) / scale))  # rounding


def _level(values: Sequence[float]) -> bool:
    return float(np.ptp(values)) <= _EQUAL * float(np.abs(values).max())
