"""Looks at graded items and at windows of text: what each says of one study.

Graded items (F1, ROUGE) match early by a bet (`kick.stats.eprocess`), since a sample in which no item has
differed yet has no variance to speak of; they are worse or better early by Student's bound and Gaffke's. Of
perplexity, log-ratios per document have Student's bounds. The last look is the fixed rule of
`kick.stats.paired` at what is left of its 5 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import special

from kick.stats import bounded, eprocess, equivalence, stratified, studentised
from kick.stats.flip_looks import HIGHER, LOWER, MATCHING, TAIL, UNDECIDED
from kick.stats.intervals import Floats, safe_exp
from kick.stats.paired import How, paired
from kick.stats.resample import RESAMPLES
from kick.stats.support import Support

BET = 0.02  # the error of matching early
FINEST = 0.001  # the smallest level of Gaffke's bound, which as many resamples still show
UNITS = 8  # documents (or windows) from which on a perplexity is judged
SHOWN = {"matching": MATCHING, "undecided": UNDECIDED, "": UNDECIDED}


class Edges(NamedTuple):
    """The ends of the margin and no difference, of which a statistic is on either side."""

    low: float
    high: float
    least: float = 0.0  # variance per item that a match is credited with, whatever was observed


def graded(pairs: Floats, support: Support, margin: float, level: float, last: bool) -> int:
    """What graded items `(n, 2)` show at this level."""
    how = How(margin=margin)
    if last:
        bounds = bounded.pair_bounds(pairs, support, RESAMPLES, 0)
        shown = equivalence.of_bounds(bounds, margin, level)
        if shown != "not matching":
            return SHOWN[shown]
        if paired(pairs[:, 0], pairs[:, 1], support=support, how=how).p >= 2 * TAIL:
            return UNDECIDED
        return LOWER if pairs[:, 1].mean() < pairs[:, 0].mean() else HIGHER
    if eprocess.matches(pairs, support, margin, BET):
        return MATCHING
    code = _beyond(pairs, margin, level)
    if code == UNDECIDED:
        return code
    bounds, finest = bounded.pair_bounds(pairs, support, RESAMPLES, 0), max(level, FINEST)
    if code == LOWER:
        most = np.quantile(bounds.won[1] - (1 - margin) * bounds.won[0], 1 - finest)
        return LOWER if most < 0 else UNDECIDED
    least = np.quantile(bounds.lost[1] - (1 + margin) * bounds.lost[0], finest)
    return HIGHER if least > 0 else UNDECIDED


def _beyond(pairs: Floats, margin: float, level: float) -> int:
    """Whether Student's bounds show a score beyond the margin, and a difference at all."""
    for sign, code in ((-1, LOWER), (1, HIGHER)):
        edge, none = (sign * (pairs[:, 1] - share * pairs[:, 0]) for share in (1 + sign * margin, 1.0))
        if _statistic(edge) > -_student(level, len(edge)) and _statistic(none) > -_student(TAIL, len(none)):
            return code
    return UNDECIDED


def _statistic(values: Floats) -> float:
    """The mean over its standard error; infinite if the values are all the same."""
    mean, sd = float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else math.inf
    if sd <= 1e-12 * abs(mean):
        return math.copysign(math.inf, mean)
    return mean / sd * math.sqrt(len(values)) if sd > 0 else 0.0


def _student(tail: float, n: int) -> float:
    """The (negative) quantile of Student's t at n - 1 degrees of freedom."""
    return float(special.stdtrit(max(n - 1, 1), tail))


def graded_chance(pairs: Floats, total: int, margin: float, level: float) -> float:
    """The predictive chance that all `total` items will show a verdict at this level."""
    gaps, edge = np.diff(pairs, axis=1)[:, 0], margin * float(pairs[:, 0].mean())
    edges = Edges(-edge, edge, margin * float((pairs[:, 0] ** 2).mean()))
    return _chance((float(gaps.mean()), float(gaps.std(ddof=1)), len(gaps)), total, edges, level)


def _chance(seen: tuple[float, float, int], total: int, edges: Edges, level: float) -> float:
    """The chance, of a mean and standard deviation of n items, that all items show it inside or outside."""
    mean, sd, n = seen
    spread = max(sd * math.sqrt(max(1 / n - 1 / total, 0.0)), 1e-12)
    z = -_student(level, total)
    narrow, wide = (z * math.sqrt(variance / total) for variance in (max(sd**2, edges.least), sd**2))
    beyond = max(1.96 * sd / math.sqrt(total), 0.0)

    def under(end: float) -> float:
        return float(special.stdtr(n - 1, (end - mean) / spread))

    inside = max(0.0, under(edges.high - narrow) - under(edges.low + narrow))
    return inside + under(min(edges.low - wide, -beyond)) + 1 - under(max(edges.high + wide, beyond))


@dataclass(frozen=True)
class Graded:
    """Graded items that were asked: `pairs` `(n, 2)`, dense's and the variant's score; `dense` `(N,)` has
    dense's of all items, those that were asked first."""

    pairs: Floats
    dense: Floats
    support: Support
    margin: float

    def shown(self, level: float, last: bool) -> int:
        """The code of what they show at this level."""
        return graded(self.pairs, self.support, self.margin, level, last) if len(self.pairs) > 1 else 0

    def chance(self, level: float, total: int = 0) -> float:
        """The predictive chance that all items (or so many) will show a verdict at this level."""
        if len(self.pairs) < 2:
            return 1.0
        return graded_chance(self.pairs, total or len(self.dense), self.margin, level)

    def interval(self, tail: float) -> tuple[float, float, float]:
        """The change, post-stratified by whether dense's score is at either end, and the ends of Gaffke's
        interval."""
        at_end = (self.dense > self.support.low).astype(np.int64) + (self.dense >= self.support.high)
        layers = stratified.strata(at_end, np.arange(len(self.pairs)))
        gap = stratified.mean(np.diff(self.pairs, axis=1)[:, 0], layers)
        bounds = bounded.pair_bounds(self.pairs, self.support, RESAMPLES, 0)
        low, high = bounds.gap(max(tail, FINEST))
        return gap, min(low, gap), max(high, gap)


@dataclass(frozen=True)
class Logs:
    """Windows that were asked: log-ratios (variant's loss minus dense's) times weight `(n,)`, their weights,
    which unit each is of (None if each is its own), and the number of all windows."""

    ratios: Floats
    weights: Floats
    units: Floats | None
    total: int
    margin: float

    def shown(self, level: float, last: bool) -> int:
        """The code of what they show at this level; nothing of few units before the last look."""
        if self.count < (2 if last else UNITS):
            return UNDECIDED
        ratio = self.ratio(RESAMPLES if last else 0)
        (least, most), low, high = ratio.interval(level), math.log(1 - self.margin), math.log(1 + self.margin)
        if least > low and most < high:
            return MATCHING
        if ratio.p() >= 2 * TAIL:
            return UNDECIDED
        return LOWER if most < low else HIGHER if least > high else UNDECIDED

    def chance(self, level: float, total: int = 0) -> float:
        """The predictive chance that all windows (or so many) will show a verdict at this level."""
        if self.count < UNITS:
            return 1.0
        ratio, units = self.ratio(0), self.count
        of = max(round((total or self.total) * units / len(self.ratios)), units + 1)
        edges = Edges(math.log(1 - self.margin), math.log(1 + self.margin))
        return _chance((ratio.value, ratio.stderr * math.sqrt(units), units), of, edges, level)

    def interval(self, tail: float) -> tuple[float, float, float]:
        """The ratio of the perplexities minus 1, and the ends of its interval."""
        sums, weights = self.summed.T
        if self.count < 2:
            return safe_exp(float(sums.sum() / weights.sum())) - 1, -1.0, math.inf
        ratio = self.ratio(0)
        low, high = ratio.interval(tail)
        return safe_exp(ratio.value) - 1, safe_exp(low) - 1, safe_exp(high) - 1

    def ratio(self, resamples: int) -> studentised.Ratio:
        """The mean log-ratio over independent units."""
        sums, weights = self.summed.T
        return studentised.ratio(sums[:, None], weights, (1.0,), resamples, 0)

    @property
    def count(self) -> int:
        """The number of independent units."""
        return len(self.summed)

    @cached_property
    def summed(self) -> Floats:
        """Sums of log-ratios and of weights over each unit, `(u, 2)`."""
        return studentised.by_unit(np.column_stack([self.ratios, self.weights]), self.units)


@dataclass(frozen=True)
class Distances:
    """Scores that have no verdict, `(n,)`, and dense's mean (NaN if it has none): only a precision ends
    them."""

    values: Floats
    dense: float
    support: Support

    def shown(self, level: float, last: bool) -> int:
        """No verdict."""
        return UNDECIDED

    def chance(self, level: float, total: int = 0) -> float:
        """There is none to wait for."""
        return 0.0

    def interval(self, tail: float) -> tuple[float, float, float]:
        """The mean and its interval, both minus dense's mean; endless if the values are all the same and no
        end of the scale is known."""
        n, mean = len(self.values), float(self.values.mean()) if len(self.values) else math.nan
        zero = 0.0 if math.isnan(self.dense) else self.dense
        if n and self.support.bounded:
            ends = bounded.mean_interval(self.values, self.support, max(tail, FINEST), RESAMPLES, 0)
            return mean - zero, min(ends[0], mean) - zero, max(ends[1], mean) - zero
        sd = float(self.values.std(ddof=1)) if n > 1 else 0.0
        reach = -_student(tail, n) * sd / math.sqrt(n) if sd > 0 else math.inf
        return mean - zero, mean - reach - zero, mean + reach - zero
