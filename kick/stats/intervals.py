"""Intervals of scores, by the kind of score that its metric declares.

Items are the unit: the same items are asked of the dense model and of every variant. Item scores are one
number each, NaN if missing. The kind comes from `kick.stats.support`, never from the values:

right/wrong            Wilson's interval
known ends (F1, FDT)   Gaffke's bound (`kick.stats.bounded`), which holds for rare scores at the other end too
perplexity             the studentised bootstrap over independent units (`kick.stats.studentised`)
all other means        bootstrap percentiles over items, widened for small n as Hesterberg proposes (2015,
                       "What teachers should know about the bootstrap", arXiv 1411.5279): the tail is the one
                       that makes the percentile interval of a normal mean equal Student's; below 10 items
                       Student's itself is taken

An interval always holds the score itself. docs/statistics.md has each rule with its measured error rate.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from kick.stats import bounded, studentised
from kick.stats.resample import RESAMPLES, resampled_means
from kick.stats.support import REAL, Support

Kind = Literal["mean", "exp_mean"]
Floats = NDArray[np.float64]

LEVEL = 0.95
LEAST = 10  # items, below which resamples have too few distinct outcomes for percentiles


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
    support: Support = REAL,
    units: Floats | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The interval and standard error of `aggregate(values, kind, weights)`; the same for the same seed.

    `support`: what an item's score can be. `units` `(n,)`: which independent unit (document) each item is of,
    for means of kind "exp_mean"; None if every item is its own.
    """
    columns, units = known_rows(units, values, *(() if weights is None else (weights,)))
    if len(columns) < 2:
        return Interval(math.nan, math.nan, math.nan)
    weight, tail = None if weights is None else 1, (1 - LEVEL) / 2
    if kind == "exp_mean":
        sums, counts = summed(columns, units, weight)
        if len(sums) < 2:
            return Interval(math.nan, math.nan, math.nan)
        found = studentised.ratio(sums, counts, (1.0,), resamples, seed)
        low, high = (safe_exp(end) for end in found.interval(tail))
        return Interval(low, high, found.stderr * safe_exp(found.value))
    support = support.of(columns[:, 0])
    low, high = _mean_interval(columns, weight, support, tail, (resamples, seed))
    value = float(ratio_of(columns.mean(axis=0), weight))
    return Interval(
        min(max(low, support.low), value), max(min(high, support.high), value), _stderr(columns, weight)
    )


def _mean_interval(
    columns: Floats, weight: int | None, support: Support, tail: float, draws: tuple[int, int]
) -> tuple[float, float]:
    """The ends of the mean's interval, by its support; `draws`: the number of resamples and their seed."""
    if weight is None and support.binary:
        return wilson(int(columns.sum()), len(columns), 1 - 2 * tail)
    if weight is None and support.bounded:
        return bounded.mean_interval(columns[:, 0], support, tail, *draws)
    means = resampled_means(columns, *draws)
    return percentiles(ratio_of(means.T, weight), tail, len(columns))


def wilson(successes: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's interval of a share: `successes` of `n`."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(successes, n, alpha=1 - level, method="wilson")
    return max(0.0, float(low)), min(1.0, float(high))


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
    return known_rows(None, *columns)[0]


def known_rows(units: Floats | None, *columns: ArrayLike) -> tuple[Floats, Floats | None]:
    """The columns side by side `(n, c)`, without the rows that miss one, and the units of the rows left."""
    table = np.column_stack([np.asarray(column, dtype=float).ravel() for column in columns])
    whole = np.isfinite(table).all(axis=1)
    return table[whole], None if units is None else np.asarray(units)[whole]


def summed(columns: Floats, units: Floats | None, weight: int | None) -> tuple[Floats, Floats]:
    """Sums of the columns before the weight column, and of the weights (or the items), over each unit."""
    values = columns[:, :weight] if weight is not None else columns
    weights = columns[:, weight] if weight is not None else np.ones(len(columns))
    table = studentised.by_unit(np.column_stack([values, weights]), units)
    return table[:, :-1], table[:, -1]


def safe_exp(value: float) -> float:
    """exp, infinite if it passes what a float holds."""
    return math.exp(value) if value < 709 else math.inf


def ratio_of(means: Floats, weight: int | None, column: int = 0) -> Floats:
    """The mean of a column, over that of the weight column if there is one; `means` is `(c, ...)`."""
    ratio: Floats = means[column] if weight is None else means[column] / means[weight]
    return ratio


def finished(mean: Floats, kind: Kind) -> Floats:
    scored: Floats = np.exp(mean) if kind == "exp_mean" else mean
    return scored


def _stderr(columns: Floats, weight: int | None) -> float:
    """The standard error of the mean, linearised if it is a ratio."""
    ratio = ratio_of(columns.mean(axis=0), weight)
    residual = columns[:, 0] - ratio
    if weight is not None:
        residual = (columns[:, 0] - ratio * columns[:, weight]) / columns[:, weight].mean()
    return float(residual.std(ddof=1) / math.sqrt(len(columns)))


def student(tail: float, n: int) -> float:
    """The (negative) quantile of Student's t at n - 1 degrees of freedom."""
    return float(special.stdtrit(n - 1, tail))


def _tail(tail: float, n: int) -> float:
    """The percentile to use for `tail` at n items: wider than `tail` for small n."""
    return float(special.ndtr(math.sqrt(n / (n - 1)) * student(tail, n)))


def percentiles(drawn: Floats, tail: float, n: int) -> tuple[float, float]:
    """The ends that leave `tail` on either side; Student's if n items have too few ways to be drawn."""
    if n < LEAST:
        center, reach = drawn.mean(), -student(tail, n) * drawn.std() * math.sqrt(n / (n - 1))
        return float(center - reach), float(center + reach)
    at = _tail(tail, n)
    low, high = np.quantile(drawn, [at, 1 - at])
    return float(low), float(high)
