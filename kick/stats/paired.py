"""Two scores on the same items: paired differences, equivalence, Holm, and what n items can show.

The rules by kind of score are those of `kick.stats.intervals`; docs/statistics.md has their error rates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from kick.stats import bounded, equivalence, studentised
from kick.stats.equivalence import Verdict
from kick.stats.intervals import (
    LEAST,
    LEVEL,
    Floats,
    Kind,
    known_rows,
    percentiles,
    ratio_of,
    safe_exp,
    student,
    summed,
)
from kick.stats.resample import RESAMPLES, resampled_means
from kick.stats.support import REAL, Support

MARGIN = 0.05  # "matching": within this share of the dense score
POWER = 0.8
TAIL = (1 - LEVEL) / 2


class How(NamedTuple):
    """How a difference is read: the share of dense's score within which a variant matches, and the number of
    resamples."""

    margin: float = MARGIN
    resamples: int = RESAMPLES


USUAL = How()


@dataclass(frozen=True)
class Difference:
    """A variant against the dense model on the same items.

    gap: variant minus dense, in the metric's own unit; low, high: its 95 % interval;
    relative_low, relative_high: the 95 % interval of variant over dense minus 1, of scores that are never
    negative at least -1, else NaN; p: two-sided, of no difference, by `test` ("mcnemar": exact, right/wrong
    items; "bootstrap"); verdict: whether the variant's score is within the margin of the dense one ("" if
    dense is 0); lost, won: items right-to-wrong and wrong-to-right, None unless items are right or wrong;
    detectable: the smallest true gap that this many items show in 80 % of studies, at alpha 5 %;
    units: how many of the items are independent; same: how many have the same score on both sides.
    """

    n: int
    gap: float = math.nan
    low: float = math.nan
    high: float = math.nan
    stderr: float = math.nan
    p: float = math.nan
    test: Literal["mcnemar", "bootstrap", ""] = ""
    verdict: Verdict = ""
    lost: int | None = None
    won: int | None = None
    detectable: float = math.nan
    relative_low: float = math.nan
    relative_high: float = math.nan
    units: int = 0
    same: int = 0


def paired(
    dense: ArrayLike,
    variant: ArrayLike,
    kind: Kind = "mean",
    weights: ArrayLike | None = None,
    *,
    support: Support = REAL,
    units: Floats | None = None,
    how: How = USUAL,
) -> Difference:
    """The paired difference variant minus dense; `dense` and `variant` `(n,)` hold the same items in order.

    The verdict is two one-sided tests at 5 % (TOST): "matching" if the score is shown to lie within
    the margin of the dense score, "not matching" if it is shown to lie outside and differs at the two-sided
    5 % too (`p`), else "undecided". The dense score's uncertainty is part of it. `support` and `units`: as
    `kick.stats.intervals.interval` has them.
    """
    columns, units = known_rows(units, dense, variant, *(() if weights is None else (weights,)))
    same, weight = int((columns[:, 0] == columns[:, 1]).sum()), None if weights is None else 2
    return replace(_read(columns, weight, kind, support, units, how), same=same)


def _read(
    columns: Floats, weight: int | None, kind: Kind, support: Support, units: Floats | None, how: How
) -> Difference:
    """The difference by the rule of the metric's kind and support."""
    n = len(columns)
    if n < 2:
        return Difference(n, verdict="undecided" if n else "", units=n)
    if kind == "exp_mean":
        return _exp_means(n, *summed(columns, units, weight), how)
    support = support.of(columns[:, :2])
    if weight is None and support.bounded:
        return _bounded(columns, support, how)
    return _means(columns, weight, support, how)


def _bounded(columns: Floats, support: Support, how: How) -> Difference:
    """The difference of scores with known ends; of right/wrong ones the flips say more."""
    n, binary = len(columns), support.binary
    point = columns.mean(axis=0)
    gap = float(point[1] - point[0])
    bounds = bounded.pair_bounds(columns, support, how.resamples, 0)
    found = equivalence.outcomes(columns)
    # right/wrong pairs get one imagined item lost and one won (after Bonett and Price 2012)
    imagined = [[[support.high, support.low], [support.low, support.high]]] if binary else []
    table = np.vstack([columns, *imagined])
    gaps = np.diff(resampled_means(table, how.resamples), axis=1)[:, 0]
    stderr = float(np.diff(table, axis=1).std() / math.sqrt(len(table)) * math.sqrt(n / (n - 1)))
    low, high = percentiles(gaps, TAIL, n) if binary else bounds.gap(TAIL)
    relative = bounds.relative(TAIL) if support.low >= 0 and point[0] > 0 else (math.nan, math.nan)
    p = mcnemar(found.lost, found.won) if binary else _bootstrap_p(gaps, columns, n)
    verdict: Verdict = ""
    if point[0] > 0:
        verdict = (
            equivalence.of_outcomes(found, how.margin)
            if binary
            else equivalence.of_bounds(bounds, how.margin)
        )
    reach = support.high - support.low
    lowest, highest = _spanning(relative, gap, float(point[0]))
    return Difference(
        n=n,
        gap=gap,
        low=max(min(low, gap), -reach),
        high=min(max(high, gap), reach),
        stderr=stderr,
        p=p,
        test="mcnemar" if binary else "bootstrap",
        verdict=_beyond_chance(verdict, p),
        lost=found.lost if binary else None,
        won=found.won if binary else None,
        detectable=detectable(n, stderr * math.sqrt(n)),
        relative_low=lowest,
        relative_high=highest,
        units=n,
    )


def _means(columns: Floats, weight: int | None, support: Support, how: How) -> Difference:
    """The difference of means without known ends."""
    n = len(columns)
    before, after = (ratio_of(resampled_means(columns, how.resamples).T, weight, column) for column in (0, 1))
    point = columns.mean(axis=0)
    dense = float(ratio_of(point, weight, 0))
    gap, gaps = float(ratio_of(point, weight, 1)) - dense, after - before
    low, high = percentiles(gaps, TAIL, n)
    stderr = float(gaps.std() * math.sqrt(n / (n - 1)))
    p = _bootstrap_p(gaps, columns, n)
    relative = (math.nan, math.nan)
    if support.low >= 0 and before.min() > 0:
        ends = percentiles(after / before, TAIL, n)
        relative = max(0.0, ends[0]) - 1, ends[1] - 1
    lowest, highest = _spanning(relative, gap, dense)
    verdict = _beyond_chance("" if dense == 0 else _equivalence(before, after, n, how.margin), p)
    return Difference(
        n=n,
        gap=gap,
        low=min(low, gap),
        high=max(high, gap),
        stderr=stderr,
        p=p,
        test="bootstrap",
        verdict=verdict,
        detectable=detectable(n, stderr * math.sqrt(n)),
        relative_low=lowest,
        relative_high=highest,
        units=n,
    )


def _exp_means(n: int, sums: Floats, counts: Floats, how: How) -> Difference:
    """The difference of perplexities, from `sums` `(u, 2)` and `counts` by unit.

    The log of their ratio is the mean difference, so the gap's interval is that of the ratio, times the
    dense perplexity.
    """
    units = len(sums)
    dense = safe_exp(float(sums[:, 0].sum() / counts.sum()))
    gap = safe_exp(float(sums[:, 1].sum() / counts.sum())) - dense
    if units < 2:
        return Difference(n, gap, verdict="undecided", units=units)
    log = studentised.ratio(sums, counts, (-1.0, 1.0), how.resamples, 0)
    low, high = (safe_exp(end) - 1 for end in log.interval(TAIL))
    least, most = log.interval(equivalence.LIMIT)
    floor, ceiling = math.log(1 - how.margin), math.log(1 + how.margin)
    verdict = equivalence.of_limits(least > floor, most < ceiling, most < floor or least > ceiling)
    stderr, p = log.stderr * (dense + gap), log.p()
    lowest, highest = _spanning((low, high), gap, dense)
    return Difference(
        n=n,
        gap=gap,
        low=min(low * dense, gap),
        high=max(high * dense, gap),
        stderr=stderr,
        p=p,
        test="bootstrap",
        verdict=_beyond_chance(verdict, p),
        detectable=detectable(units, stderr * math.sqrt(units)),
        relative_low=lowest,
        relative_high=highest,
        units=units,
    )


def _beyond_chance(verdict: Verdict, p: float) -> Verdict:
    """ "Not matching" only if the test of no difference does not call it chance."""
    return "undecided" if verdict == "not matching" and p >= 1 - LEVEL else verdict


def _spanning(relative: tuple[float, float], gap: float, dense: float) -> tuple[float, float]:
    """The ends of the relative change, which hold the change itself."""
    if math.isnan(relative[0]):
        return relative
    at = gap / dense
    return min(relative[0], at), max(relative[1], at)


def mcnemar(lost: int, won: int, *, mid: bool = False) -> float:
    """Two-sided p of McNemar's exact test: of the items that flipped, either way is equally likely.

    The exact test errs on the safe side; `mid` counts half of the observed outcome, and is nearer to 5 %.
    """
    if lost + won == 0:
        return 1.0
    fewer, flips = min(lost, won), lost + won
    below = special.bdtr(fewer, flips, 0.5)
    if mid:
        below -= math.comb(flips, fewer) / 2**flips / 2
    return float(min(1.0, 2 * below))


def holm(p: Sequence[float] | Floats) -> Floats:
    """Holm's adjusted p values, in the order given; NaN stays NaN and does not count as a test."""
    raw = np.asarray(p, dtype=float)
    adjusted = np.full(raw.shape, math.nan)
    order = np.argsort(raw, kind="stable")[: int(np.isfinite(raw).sum())]  # NaN sorts to the end
    scaled = raw[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def detectable(n: int, sd: float, *, power: float = POWER, alpha: float = 1 - LEVEL) -> float:
    """The smallest true mean difference that n items with this spread of differences show with this power.

    `sd` is the standard deviation of the item differences; the result has its unit. NaN below two items.
    """
    if n < 2:
        return math.nan
    return float(-(student(alpha / 2, n) + student(1 - power, n)) * sd / math.sqrt(n))


def _student_p(differences: Floats) -> float:
    """Two-sided p of the one-sample t test; 0 if all differ by the same."""
    n, sd = len(differences), differences.std(ddof=1)
    if sd == 0:
        return float(differences.mean() == 0)
    return float(2 * special.stdtr(n - 1, -abs(differences.mean()) / sd * math.sqrt(n)))


def _equivalence(before: Floats, after: Floats, n: int, margin: float) -> Verdict:
    """TOST on resampled means: the distance to either end of the margin, at one-sided 5 % each."""
    tail = equivalence.LIMIT
    least_low, most_low = percentiles(after - before + margin * np.abs(before), tail, n)
    least_high, most_high = percentiles(after - before - margin * np.abs(before), tail, n)
    return equivalence.of_limits(least_low > 0, most_high < 0, most_low < 0 or least_high > 0)


def _bootstrap_p(gaps: Floats, columns: Floats, n: int) -> float:
    """Two-sided p: the level at which the widened percentile interval just touches zero.

    Where no resample crosses zero the paired t test says how small p is, which the resamples cannot.
    """
    if (columns[:, 0] == columns[:, 1]).all():
        return 1.0
    if n < LEAST:
        return _student_p(columns[:, 1] - columns[:, 0])
    below = float((gaps < 0).mean() + (gaps == 0).mean() / 2)
    side = max(min(below, 1 - below), 1 / (len(gaps) + 1))
    p = float(2 * special.stdtr(n - 1, special.ndtri(side) / math.sqrt(n / (n - 1))))
    if side == 1 / (len(gaps) + 1):
        p = min(p, _student_p(columns[:, 1] - columns[:, 0]))
    return min(1.0, p)
