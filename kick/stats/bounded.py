"""Scores with known ends: intervals and equivalence that hold whatever the items' distribution is.

Gaffke's bound, as E. Learned-Miller and P. Thomas describe it (2019, arXiv 1905.06208): the items and one
imagined item at the end of the scale get random weights that are uniform over all weights that sum to 1 (the
Bayesian bootstrap), and the bound is a quantile of the weighted mean. So a sample without a bad item does not
show that there are none: the lower bound still allows what n items would have missed. For right/wrong items
it is the exact bound of Clopper and Pearson. That it holds for every distribution is a conjecture, to which
no counterexample is known; the tests simulate those that break the bootstrap.

A pair is bounded in the same way: the imagined pair is lost whole for a lower bound (the first side at the
top, the second at the bottom) and won whole for an upper one. Where no item can be lost or won, because the
first side is at the end of the scale with every item, the second side of the imagined pair is there too.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kick.stats.resample import distinct
from kick.stats.support import Support

Floats = NDArray[np.float64]
_CHUNK = 4_000_000  # weights held in memory at once


class Weighted(NamedTuple):
    """Random weights of items, applied: `sums` `(resamples, c)` of the columns, `total` of all weights, and
    the weight of one more, imagined item, both `(resamples,)`."""

    sums: Floats
    total: Floats
    extra: Floats

    def means(self, imagined: Floats) -> Floats:
        """The weighted means `(c, resamples)` with the imagined item `(c,)`."""
        added = self.sums + self.extra[:, None] * imagined
        return (added / (self.total + self.extra)[:, None]).T


def weighted(columns: Floats, resamples: int, seed: int) -> Weighted:
    """`columns` `(n, c)` under weights that are exponential, so uniform over the simplex once divided."""
    n = len(columns)
    rng = np.random.default_rng([seed, n])
    extra = rng.standard_exponential(resamples)
    rows, counts = distinct(columns)
    if len(rows) <= max(16, n // 20):
        weights = rng.standard_gamma(counts, size=(resamples, len(rows)))
        return Weighted(weights @ rows, weights.sum(axis=1), extra)
    if n * resamples <= _CHUNK:
        weights = _weights(n, resamples, seed)
        return Weighted(weights @ columns, weights.sum(axis=1), extra)
    sums, total = np.empty((resamples, columns.shape[1])), np.empty(resamples)
    step = max(1, _CHUNK // n)
    for start in range(0, resamples, step):
        part = slice(start, min(start + step, resamples))
        weights = rng.standard_exponential((part.stop - start, n))
        sums[part], total[part] = weights @ columns, weights.sum(axis=1)
    return Weighted(sums, total, extra)


@lru_cache(maxsize=3)
def _weights(n: int, resamples: int, seed: int) -> Floats:
    """The same weights for all scores of n items, so that near values have near bounds."""
    return np.random.default_rng([seed, n, 1]).standard_exponential((resamples, n))


def mean_interval(
    values: Floats, support: Support, tail: float, resamples: int, seed: int
) -> tuple[float, float]:
    """The interval of the mean of `values` `(n,)` that leaves at most `tail` on either side."""
    drawn = weighted(values[:, None], resamples, seed)
    low = float(np.quantile(drawn.means(np.array([support.low]))[0], tail))
    high = float(np.quantile(drawn.means(np.array([support.high]))[0], 1 - tail))
    return low, high


class Bounds(NamedTuple):
    """Weighted means of both sides, `(2, resamples)`: with a pair lost whole, and with one won whole."""

    lost: Floats
    won: Floats

    def gap(self, tail: float) -> tuple[float, float]:
        """The interval of second minus first."""
        low = np.quantile(self.lost[1] - self.lost[0], tail)
        return float(low), float(np.quantile(self.won[1] - self.won[0], 1 - tail))

    def relative(self, tail: float) -> tuple[float, float]:
        """The interval of second over first minus 1: of scores that are never negative at least -1."""
        low = np.quantile(self.lost[1] / self.lost[0], tail) - 1
        return float(low), float(np.quantile(self.won[1] / self.won[0], 1 - tail)) - 1


def pair_bounds(pairs: Floats, support: Support, resamples: int, seed: int) -> Bounds:
    """The bounds of `pairs` `(n, 2)`, first and second score of each item."""
    drawn = weighted(pairs, resamples, seed)
    highest = support.high if (pairs[:, 0] > support.low).any() else support.low
    lowest = support.low if (pairs[:, 0] < support.high).any() else support.high
    lost, won = np.array([highest, support.low]), np.array([lowest, support.high])
    return Bounds(drawn.means(lost), drawn.means(won))
