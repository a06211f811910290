"""Two scores on the same items: paired differences, equivalence, Holm, and what n items can show.

The statistics themselves are described in `kick.stats.intervals`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from kick.stats.intervals import (
    LEAST,
    LEVEL,
    RESAMPLES,
    Floats,
    Kind,
    finished,
    finite_rows,
    percentiles,
    ratio_of,
    resampled_means,
    right_or_wrong,
    student,
)

Verdict = Literal["matching", "not matching", "undecided", ""]
MARGIN = 0.05  # "matching": within this share of the dense score
POWER = 0.8


@dataclass(frozen=True)
class Difference:
    """A variant against the dense model on the same items.

    gap: variant minus dense, in the metric's own unit; low, high: its 95 % interval; p: two-sided, of no
    difference, by `test` ("mcnemar": exact, right/wrong items; "bootstrap": the interval turned round);
    verdict: whether the variant's score is within the margin of the dense one ("" where dense is 0);
    lost, won: items right-to-wrong and wrong-to-right, None unless items are right or wrong;
    detectable: the smallest true gap that this many items show in 80 % of studies, at alpha 5 %.
    """

    n: int
    gap: float
    low: float
    high: float
    stderr: float
    p: float
    test: Literal["mcnemar", "bootstrap", ""]
    verdict: Verdict
    lost: int | None
    won: int | None
    detectable: float


def paired(
    dense: ArrayLike,
    variant: ArrayLike,
    kind: Kind = "mean",
    weights: ArrayLike | None = None,
    *,
    margin: float = MARGIN,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """The paired difference variant minus dense; `dense` and `variant` `(n,)` hold the same items in order.

    The verdict is two one-sided tests at 5 % (TOST): "matching" where the score is shown to lie within
    `margin` of the dense score, "not matching" where it is shown to lie outside and differs at the two-sided
    5 % too (`p`), else "undecided". The dense score's own uncertainty is part of it: each resample compares
    with its own dense score.
    """
    columns = finite_rows(dense, variant, *(() if weights is None else (weights,)))
    n, weight = len(columns), None if weights is None else 2
    if n < 2:
        return Difference(n, *[math.nan] * 5, "", "undecided" if n else "", None, None, math.nan)
    shares = kind == "mean" and weight is None and bool(((columns >= 0) & (columns <= 1)).all())
    binary = shares and right_or_wrong(columns)
    same = bool((columns[:, 0] == columns[:, 1]).all())
    imagined = [[[1, 0], [0, 1]]] if binary or (shares and same) else []
    drawn = resampled_means(np.vstack([columns, *imagined]), resamples, seed).T
    before, after = ratio_of(drawn, weight, 0), ratio_of(drawn, weight, 1)
    gaps = finished(after, kind) - finished(before, kind)
    point = columns.mean(axis=0)
    gap = float(finished(ratio_of(point, weight, 1), kind) - finished(ratio_of(point, weight, 0), kind))
    low, high = np.clip(percentiles(gaps, (1 - LEVEL) / 2, n), *((-1, 1) if shares else (-np.inf, np.inf)))
    stderr = float(gaps.std() * math.sqrt(n / (n - 1)))
    lost, won = _flips(columns) if binary else (None, None)
    p = mcnemar(lost, won) if binary else 1.0 if same else _bootstrap_p(gaps, columns, n)
    verdict = "" if kind == "mean" and point[0] == 0 else _equivalence(before, after, kind, margin, n)
    if verdict == "not matching" and p >= 1 - LEVEL:  # chance, by the test of no difference
        verdict = "undecided"
    return Difference(
        n=n,
        gap=gap,
        low=float(min(low, gap)),
        high=float(max(high, gap)),
        stderr=stderr,
        p=p,
        test="mcnemar" if binary else "bootstrap",
        verdict=verdict,
        lost=lost,
        won=won,
        detectable=detectable(n, stderr * math.sqrt(n)),
    )


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


def _flips(columns: Floats) -> tuple[int, int]:
    """Items right-to-wrong and wrong-to-right."""
    return int((columns[:, 0] > columns[:, 1]).sum()), int((columns[:, 0] < columns[:, 1]).sum())


def _student_p(differences: Floats) -> float:
    """Two-sided p of the one-sample t test; 0 where all differ by the same."""
    n, sd = len(differences), differences.std(ddof=1)
    if sd == 0:
        return float(differences.mean() == 0)
    return float(2 * special.stdtr(n - 1, -abs(differences.mean()) / sd * math.sqrt(n)))


def _equivalence(before: Floats, after: Floats, kind: Kind, margin: float, n: int) -> Verdict:
    """TOST on resampled means: the distance to either end of the margin, at one-sided 5 % each."""
    if kind == "exp_mean":
        above_low = after - before - math.log(1 - margin)
        above_high = after - before - math.log(1 + margin)
    else:
        above_low = after - before + margin * np.abs(before)
        above_high = after - before - margin * np.abs(before)
    tail = 1 - LEVEL
    least_low, most_low = percentiles(above_low, tail, n)
    least_high, most_high = percentiles(above_high, tail, n)
    if least_low > 0 and most_high < 0:
        return "matching"
    if most_low < 0 or least_high > 0:
        return "not matching"
    return "undecided"


def _bootstrap_p(gaps: Floats, columns: Floats, n: int) -> float:
    """Two-sided p: the level at which the widened percentile interval just touches zero.

    Where no resample crosses zero the paired t test says how small p is, which the resamples cannot.
    """
    if n < LEAST:
        return _student_p(columns[:, 1] - columns[:, 0])
    below = float((gaps < 0).mean() + (gaps == 0).mean() / 2)
    side = max(min(below, 1 - below), 1 / (len(gaps) + 1))
    p = 2 * special.stdtr(n - 1, special.ndtri(side) / math.sqrt(n / (n - 1)))
    if side == 1 / (len(gaps) + 1):
        p = min(p, _student_p(columns[:, 1] - columns[:, 0]))
    return float(min(1.0, p))
