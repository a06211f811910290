"""The columns of a frame's row that come of a score and of its difference to dense."""

from __future__ import annotations

import math
from typing import Any

from kick.analysis import items
from kick.analysis.items import Items
from kick.stats.metrics import Metric
from kick.stats.paired import MARGIN, Difference, How

NO_TEST = {"p": math.nan, "detectable": math.nan, "test": "", "verdict": ""}  # of n items out of N
PLAIN = ("gap_low", "gap_high", "relative_low", "relative_high", "p", "lost", "won", "detectable")


def number(value: float | None) -> float:
    """None as NaN."""
    return math.nan if value is None else float(value)


def plain_gap(value: float, dense: float) -> dict[str, Any]:
    """The columns of a difference of which nothing but the two scores is known."""
    relative = (value - dense) / abs(dense) if dense else math.nan
    columns = {"dense_value": dense, "gap": value - dense, "relative": relative, "test": "", "verdict": ""}
    columns["same"] = math.nan
    return columns | dict.fromkeys(PLAIN, math.nan)


def gap(found: Difference | None) -> dict[str, Any]:
    """The columns of a paired difference; none if there is none."""
    if found is None or found.n == 0:
        return {}
    return {
        "gap_low": found.low,
        "gap_high": found.high,
        "relative_low": found.relative_low,
        "relative_high": found.relative_high,
        "p": found.p,
        "lost": number(found.lost),
        "won": number(found.won),
        "detectable": found.detectable,
        "same": float(found.same),
        "test": found.test,
        "verdict": found.verdict,
    }


def beside(dense: Items, theirs: Items, metric: Metric, how: How) -> dict[str, Any]:
    """`gap` of the paired difference; where one side lacks items that the other has, the gap itself is of the
    items that both have, as its interval is."""
    found = items.difference(dense, theirs, metric, how=how)
    columns = gap(found)
    if found is not None and columns and found.n < max(items.known(one, metric) for one in (dense, theirs)):
        before, after = items.shared(dense, theirs, metric)
        value, base = items.aggregate(after, metric), items.aggregate(before, metric)
        columns |= {"gap": value - base, "relative": (value - base) / abs(base) if base else math.nan}
    return columns


RESAMPLES = 2000  # for groups and derived rows, of which there are many


def measured(metric: Metric, theirs: Items, dense: Items | None) -> dict[str, Any]:
    """The score of a metric computed from items, and its plain gap to the dense items' score."""
    scores = items.score(theirs, metric, RESAMPLES)
    before = math.nan if dense is None else items.aggregate(dense, metric)
    return {
        "metric": metric.name,
        "primary": False,
        "higher_is_better": metric.higher_is_better,
        "unit": metric.unit,
        **scores,
        **plain_gap(scores["value"], before),
    }


def compared(
    metric: Metric, theirs: Items, dense: Items | None, is_dense: bool, margin: float = MARGIN
) -> dict[str, Any]:
    """`measured`, with the paired difference if the variant is not the dense one itself."""
    row = measured(metric, theirs, dense)
    if dense is not None and not is_dense:
        row |= beside(dense, theirs, metric, How(margin, RESAMPLES))
    return row
