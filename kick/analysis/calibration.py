"""Calibration error of multiple choice: how far a model's confidence is from its accuracy.

The expected calibration error (Guo et al. 2017, arXiv 1706.04599) sorts items by confidence
into ten bins of equal width. It is the mean of |accuracy - confidence| over bins, weighted by their items. Of
few items it is too large, as each bin's noise counts without its sign, the more the smaller the bin's gap.
The interval of the error is the basic bootstrap's, which turns that bias around; that of a difference to
dense has the percentiles of paired draws. A flat model that is right by
chance is well calibrated, so the error is read beside the accuracy.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kick.analysis.cells import StoredCell, by_asked, describe
from kick.analysis.items import Floats, Items, align
from kick.analysis.pairs import Keeping
from kick.analysis.rows import RESAMPLES, plain_gap
from kick.analysis.stopped import early
from kick.stats import metrics
from kick.stats.resample import resampled_means

BINS = 10
LEAST = 20  # items, below which ten bins say nothing
TAILS = [0.025, 0.975]


def rows(cells: Sequence[StoredCell], kept: Keeping) -> Iterator[dict[str, Any]]:
    """The calibration error of every variant on every multiple-choice task, beside dense's."""
    for asked in by_asked(cell for cell in cells if _measured(cell)).values():
        dense = next((cell for cell in asked if cell.variant.dense), None)
        for cell in asked:
            other = [dense] if dense else []
            make = functools.partial(_statistics, cell, dense)
            found = kept.get(cell, ["calibration error", cell.role, cell, *other], make)
            facts = {**describe(cell), "seconds": 0.0, "compress_seconds": 0.0} if found else {}
            yield from ({**facts, "group": "", **row} for row in found)


def _measured(cell: StoredCell) -> bool:
    names = {score.metric for score in cell.run.scores}
    return {"confidence", "acc"} <= names and not early(cell)


def _statistics(cell: StoredCell, dense: StoredCell | None) -> list[dict[str, Any]]:
    theirs, ours = align(cell.items(), (dense or cell).items())
    gaps = [_by_bin(one) for one in (theirs, ours)]
    known = np.isfinite(gaps[0]).all(axis=1) & np.isfinite(gaps[1]).all(axis=1)
    if known.sum() < LEAST:
        return []
    mine, before = (gap[known] for gap in gaps)
    value, low, high, stderr = _interval(mine)
    metric = metrics.describe("ece")
    row = {
        "metric": metric.name,
        "primary": False,
        "higher_is_better": metric.higher_is_better,
        "unit": metric.unit,
        "value": value,
        "low": low,
        "high": high,
        "stderr": stderr,
        "n": int(known.sum()),
        "units": int(known.sum()),
        "missing": int((~known).sum()),
        **plain_gap(value, error(before) if dense else float("nan")),
    }
    if dense is not None and not cell.variant.dense:
        drawn = resampled_means(np.hstack([mine, before]), RESAMPLES)
        differences = np.abs(drawn[:, :BINS]).sum(axis=1) - np.abs(drawn[:, BINS:]).sum(axis=1)
        ends = np.quantile(differences, TAILS)
        row |= {"gap_low": min(float(ends[0]), row["gap"]), "gap_high": max(float(ends[1]), row["gap"])}
    return [row]


def _by_bin(items: Items) -> Floats:
    """Right minus confidence of each item in the column of its bin `(n, BINS)`, 0 in the others."""
    sure, right = items.columns["confidence"], items.columns["acc"]
    places = np.clip(np.ceil(np.nan_to_num(sure) * BINS) - 1, 0, BINS - 1)
    return np.where(places[:, None] == np.arange(BINS), (right - sure)[:, None], 0.0)


def error(gaps: Floats) -> float:
    """The expected calibration error of items `(n, BINS)`, as a share."""
    return float(np.abs(gaps.mean(axis=0)).sum())


def _interval(gaps: Floats) -> tuple[float, float, float, float]:
    """The error, its 95 % interval (basic bootstrap, which always holds it) and its standard error."""
    value = error(gaps)
    drawn = np.abs(resampled_means(gaps, RESAMPLES)).sum(axis=1)
    low, high = 2 * value - np.quantile(drawn, TAILS)[::-1]
    return value, max(0.0, min(float(low), value)), max(float(high), value), float(drawn.std(ddof=1))
