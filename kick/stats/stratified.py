"""Scores known on some of N items, by strata whose sizes over all N are known: post-stratification.

A cell that ended early has answered n of N items, and dense has answered all N. So of every group of items
that can be told without the variant (those that dense has right, and those it has wrong) the share among all
N is known, and the mean over the asked items of a group stands for the group. Of right/wrong items this gives
the gap -p * lost / n1 + (1 - p) * won / n0, p dense's share right over all N: it does not depend on how many
of dense's right items happened to come first.

When a cell ends is decided by its answers, so a bound at 5 % that is read there is wrong more often than
that. `difference` divides every level by the number of looks (Bonferroni): its statements hold at all looks
at once, and so at whichever of them the cells ended.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kick.stats import bounded, equivalence, studentised
from kick.stats.bounded import Bounds
from kick.stats.intervals import Floats, Kind, percentiles, safe_exp
from kick.stats.paired import TAIL, USUAL, Difference, How
from kick.stats.resample import resampled_means
from kick.stats.support import REAL, Support

Numbers = NDArray[np.int64]
Ends = tuple[float, float]


class Strata(NamedTuple):
    """Strata of the items asked: `of` `(n,)` has each item's, counted from 0; `sizes` `(s,)` has the number
    of items of each among all N. Every stratum has an item that was asked."""

    of: Numbers
    sizes: Numbers

    @property
    def weights(self) -> Floats:
        """How much each asked item counts, `(n,)`, on average 1."""
        asked = np.bincount(self.of, minlength=len(self.sizes))
        each: Floats = self.sizes * len(self.of) / (asked * self.sizes.sum())
        return each[self.of]


def strata(everything: NDArray[np.generic], asked: NDArray[np.intp]) -> Strata:
    """The strata of the items at the places `asked` `(n,)`; `everything` `(N,)` has each item's as a number.

    A stratum of which no item was asked is counted with that of the nearest number of which some was.
    """
    known = np.unique(everything[asked])
    levels, place = np.unique(everything, return_inverse=True)
    nearest = np.abs(levels[:, None] - known).argmin(axis=1)[place]
    return Strata(nearest[asked], np.bincount(nearest, minlength=len(known)))


def mean(values: Floats, layers: Strata) -> float:
    """The mean over all N items, of which `values` `(n,)` are known."""
    return float(layers.weights @ values / len(values)) if len(values) else math.nan


class Sampled(NamedTuple):
    """Two scores of the items asked, `pairs` `(n, 2)`: their strata, how the metric brings items together,
    their independent units (documents of windows), None if each is its own, and what their sums are divided
    by (words), None for 1 each. With such weights, `kind` is "exp_mean"."""

    pairs: Floats
    layers: Strata
    kind: Kind = "mean"
    support: Support = REAL
    units: Floats | None = None
    weights: Floats | None = None


def difference(sampled: Sampled, looks: int, how: How = USUAL) -> Difference:
    """The paired difference second minus first, as it holds at each of so many looks.

    It has no p and no `detectable`: these are of all N items. The verdict is that of the four one-sided
    statements of `kick.stats.equivalence`, at 5 % / looks each.
    """
    n = len(sampled.pairs)
    if n < 2:
        return Difference(n, verdict="undecided" if n else "", units=n)
    same = int((sampled.pairs[:, 0] == sampled.pairs[:, 1]).sum())
    if sampled.kind == "exp_mean":
        return replace(_exp_means(sampled, looks, how), same=same)
    support = sampled.support.of(sampled.pairs)
    first, second = (mean(column, sampled.layers) for column in sampled.pairs.T)
    gap, tail, limit = second - first, TAIL / looks, equivalence.LIMIT / looks
    relative: Ends = (math.nan, math.nan)
    if support.bounded:
        bounds = _bounds(sampled, support, how.resamples)
        ends, shown = bounds.gap(tail), equivalence.of_bounds(bounds, how.margin, limit)
        relative = bounds.relative(tail) if support.low >= 0 and first > 0 else relative
    else:
        before, after = _means(sampled, how.resamples)
        ends, shown = percentiles(after - before, tail, n), _apart(before, after, n, how.margin, limit)
    found = equivalence.outcomes(sampled.pairs)
    return Difference(
        n=n,
        gap=gap,
        low=min(ends[0], gap),
        high=max(ends[1], gap),
        stderr=_stderr(sampled),
        verdict=shown if first else "",
        lost=found.lost if support.binary else None,
        won=found.won if support.binary else None,
        relative_low=relative[0],
        relative_high=relative[1],
        units=n,
        same=same,
    )


def _bounds(sampled: Sampled, support: Support, resamples: int) -> Bounds:
    """Gaffke's bound of each stratum, each with an imagined item of its own, and the strata brought together.

    The shares are those of a population of which the N items are a sample, so they are drawn as well.
    """
    pairs, (of, sizes) = sampled.pairs, sampled.layers
    highest = support.high if (pairs[:, 0] > support.low).any() else support.low
    lowest = support.low if (pairs[:, 0] < support.high).any() else support.high
    lost, won = np.zeros((2, resamples)), np.zeros((2, resamples))
    shares = np.random.default_rng(len(of)).dirichlet(sizes, size=resamples).T
    for stratum, share in enumerate(shares):
        drawn = bounded.weighted(pairs[of == stratum], resamples, stratum)
        lost += share * drawn.means(np.array([highest, support.low]))
        won += share * drawn.means(np.array([lowest, support.high]))
    return Bounds(lost, won)


def _weighted(sampled: Sampled) -> Floats:
    """The columns first, second and the divisor of each item, each times its weight by stratum: `(n, 3)`."""
    divisor = np.ones(len(sampled.pairs)) if sampled.weights is None else sampled.weights
    columns = np.column_stack([sampled.pairs, divisor])
    weighted: Floats = columns * sampled.layers.weights[:, None]
    return weighted


def _means(sampled: Sampled, resamples: int) -> tuple[Floats, Floats]:
    """Resampled means of both sides, `(resamples,)` each."""
    first, second, total = resampled_means(_weighted(sampled), resamples).T
    return first / total, second / total


def _apart(before: Floats, after: Floats, n: int, margin: float, limit: float) -> equivalence.Verdict:
    least_low, most_low = percentiles(after - before + margin * np.abs(before), limit, n)
    least_high, most_high = percentiles(after - before - margin * np.abs(before), limit, n)
    return equivalence.of_limits(least_low > 0, most_high < 0, most_low < 0 or least_high > 0)


def _exp_means(sampled: Sampled, looks: int, how: How) -> Difference:
    """The difference of perplexities: the log of their ratio is the mean difference over units."""
    table = studentised.by_unit(_weighted(sampled), sampled.units)
    sums, counts = table[:, :2], table[:, 2]
    first, second = (safe_exp(float(total / counts.sum())) for total in sums.sum(axis=0))
    n, units, gap = len(sampled.pairs), len(sums), second - first
    if units < 2:
        return Difference(n, gap, verdict="undecided", units=units)
    log = studentised.ratio(sums, counts, (-1.0, 1.0), how.resamples, 0)
    low, high = (safe_exp(end) - 1 for end in log.interval(TAIL / looks))
    least, most = log.interval(equivalence.LIMIT / looks)
    floor, ceiling = math.log(1 - how.margin), math.log(1 + how.margin)
    shown = equivalence.of_limits(least > floor, most < ceiling, most < floor or least > ceiling)
    return Difference(
        n=n,
        gap=gap,
        low=min(low * first, gap),
        high=max(high * first, gap),
        stderr=log.stderr * second,
        verdict=shown,
        relative_low=low,
        relative_high=high,
        units=units,
    )


def _stderr(sampled: Sampled) -> float:
    """The standard error of the stratified gap; a stratum with one item has no spread of its own, and is
    given that of all."""
    gaps, (of, sizes) = np.diff(sampled.pairs, axis=1)[:, 0], sampled.layers
    total = 0.0
    for stratum, share in enumerate(sizes / sizes.sum()):
        part = gaps[of == stratum]
        total += share**2 * (part if len(part) > 1 else gaps).var(ddof=1) / len(part)
    return math.sqrt(total)
