"""How sure a number is: intervals of scores, paired differences, equivalence, Holm, and what n can show.

Items are the unit: the same items are asked of the dense model and of every variant, so differences are taken
item by item. Item scores are one number each, NaN where missing; a missing item leaves both sides of a pair.

Intervals are bootstrap percentiles over items, widened for small n as Hesterberg proposes (2015, "What
teachers should know about the bootstrap", arXiv 1411.5279): the tail is the one that makes the percentile
interval of a normal mean equal Student's; below 10 items Student's itself is taken. Right/wrong scores have
Wilson's interval, which does not shrink to a point at 0 or 1. Right/wrong pairs get one imagined item lost
and one won (after Bonett and Price 2012), so that agreement on all of n items is not taken for certainty; so
do other shares where no item differs.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Kind = Literal["mean", "exp_mean"]
Floats = NDArray[np.float64]

RESAMPLES = 10_000
LEVEL = 0.95
_CHUNK = 4_000_000  # item draws held in memory at once
LEAST = 10  # items, below which resamples have too few distinct outcomes for percentiles
_FEW = 200  # items, up to which a table of draws is faster than a multinomial


class Interval(NamedTuple):
    """A 95 % interval (or of the level asked for) and the standard error; NaN below two items."""

    low: float
    high: float
    stderr: float


# ------------------------------------------------------------------------------------------------ one score


def aggregate(values: ArrayLike, kind: Kind = "mean", weights: ArrayLike | None = None) -> float:
    """The mean of the finite item scores `(n,)`, or exp of it; NaN without any.

    With `weights` `(n,)` the sum of the values is divided by that of the weights.
    """
    columns = finite_rows(values, *(() if weights is None else (weights,)))
    if not len(columns):
        return math.nan
    return float(finished(ratio_of(columns.mean(axis=0), None if weights is None else 1), kind))


def interval(
    values: ArrayLike,
    kind: Kind = "mean",
    weights: ArrayLike | None = None,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The interval and standard error of `aggregate(values, kind, weights)`; the same for the same seed.

    Right/wrong scores have Wilson's interval, all others the bootstrap's.
    """
    columns = finite_rows(values, *(() if weights is None else (weights,)))
    n = len(columns)
    if n < 2:
        return Interval(math.nan, math.nan, math.nan)
    weight = None if weights is None else 1
    stderr = _stderr(columns, kind, weight)
    if kind == "mean" and weights is None and right_or_wrong(columns):
        low, high = wilson(int(columns.sum()), n, level)
        return Interval(low, high, stderr)
    means = resampled_means(columns, resamples, seed)
    low, high = percentiles(finished(ratio_of(means.T, weight), kind), (1 - level) / 2, n)
    if kind == "mean" and (columns >= 0).all():  # counts and shares: Student's ends know no bound
        low, high = max(low, 0.0), min(high, 1.0) if (columns <= 1).all() else high
    return Interval(low, high, stderr)


def wilson(successes: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's interval of a share: `successes` of `n`."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(successes, n, alpha=1 - level, method="wilson")
    return max(0.0, float(low)), min(1.0, float(high))


def resampled_means(columns: Floats, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Means `(resamples, c)` of `columns` `(n, c)` over items drawn with replacement, rows kept whole.

    Few items share one table of draws; few distinct rows (right/wrong items) are drawn as one multinomial;
    all else item by item in chunks. Memory stays near 100 MB, and 10,000 resamples of 14,000 items take about
    a second.
    """
    n = len(columns)
    rng = np.random.default_rng(seed)
    if n > _FEW:
        rows, counts = np.unique(columns, axis=0, return_counts=True)
        if len(rows) <= max(16, n // 20):
            return rng.multinomial(n, counts / n, size=resamples) @ rows / n
    if n * resamples <= _CHUNK:
        return _draws(n, resamples, seed) @ columns / n
    means = np.empty((resamples, columns.shape[1]))
    step = max(1, _CHUNK // n)
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        drawn = rng.integers(0, n, size=(stop - start, n), dtype=np.int32)
        for column in range(columns.shape[1]):
            means[start:stop, column] = columns[:, column][drawn].mean(axis=1)
    return means


@lru_cache(maxsize=3)
def _draws(n: int, resamples: int, seed: int) -> Floats:
    """How often each item is drawn in each resample, `(resamples, n)`: the same for all scores of n items."""
    drawn = np.random.default_rng(seed).integers(0, n, size=(resamples, n))
    drawn += np.arange(resamples)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype(float)


class Spread(NamedTuple):
    """Scores of one recipe under several calibration seeds: their mean, standard deviation and number."""

    mean: float
    sd: float
    seeds: int


def spread(values: ArrayLike) -> Spread:
    """The spread over seeds of one score each; sd is NaN for a single seed. Not an interval over items."""
    known = finite_rows(values)[:, 0]
    sd = float(known.std(ddof=1)) if len(known) > 1 else math.nan
    return Spread(float(known.mean()) if len(known) else math.nan, sd, len(known))


# ------------------------------------------------------------------------------------------------ the parts


def finite_rows(*columns: ArrayLike) -> Floats:
    """The columns side by side `(n, c)`, without the rows that miss one."""
    table = np.column_stack([np.asarray(column, dtype=float).ravel() for column in columns])
    return table[np.isfinite(table).all(axis=1)]


def ratio_of(means: Floats, weight: int | None, column: int = 0) -> Floats:
    """The mean of a column, over that of the weight column where there is one; `means` is `(c, ...)`."""
    return means[column] if weight is None else means[column] / means[weight]


def finished(mean: Floats, kind: Kind) -> Floats:
    return np.exp(mean) if kind == "exp_mean" else mean


def right_or_wrong(columns: Floats) -> bool:
    return bool(((columns == 0) | (columns == 1)).all())


def _stderr(columns: Floats, kind: Kind, weight: int | None) -> float:
    """The standard error of the aggregate, linearised where it is a ratio or an exponential."""
    ratio = ratio_of(columns.mean(axis=0), weight)
    residual = columns[:, 0] - ratio
    if weight is not None:
        residual = (columns[:, 0] - ratio * columns[:, weight]) / columns[:, weight].mean()
    stderr = residual.std(ddof=1) / math.sqrt(len(columns))
    return float(stderr * np.exp(ratio) if kind == "exp_mean" else stderr)


def student(tail: float, n: int) -> float:
    """The (negative) quantile of Student's t at n - 1 degrees of freedom."""
    return float(special.stdtrit(n - 1, tail))


def _tail(tail: float, n: int) -> float:
    """The percentile that stands for `tail` at n items: wider than `tail` for small n."""
    return float(special.ndtr(math.sqrt(n / (n - 1)) * student(tail, n)))


def percentiles(drawn: Floats, tail: float, n: int) -> tuple[float, float]:
    """The ends that leave `tail` on either side; Student's where n items have too few ways to be drawn."""
    if n < LEAST:
        center, reach = drawn.mean(), -student(tail, n) * drawn.std() * math.sqrt(n / (n - 1))
        return float(center - reach), float(center + reach)
    at = _tail(tail, n)
    low, high = np.quantile(drawn, [at, 1 - at])
    return float(low), float(high)
