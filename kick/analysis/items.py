"""The item scores of a cell as arrays, and two cells brought item by item to the same order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kick.records import Sample
from kick.stats import intervals, paired
from kick.stats.metrics import Metric

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Items:
    """A cell's items: their ids, their groups, and one array `(n,)` a score, NaN where missing."""

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    columns: Mapping[str, Floats]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Items:
        """The items of these samples, in their order."""
        names = dict.fromkeys(name for sample in samples for name in sample.scores)
        columns = {
            name: np.array([sample.scores.get(name, math.nan) for sample in samples], dtype=float)
            for name in names
        }
        return cls(tuple(s.item for s in samples), tuple(s.group for s in samples), columns)

    def has(self, metric: Metric) -> bool:
        """Whether the metric can be computed from these columns."""
        return metric.column in self.columns and (metric.weight is None or metric.weight in self.columns)

    def values(self, metric: Metric) -> tuple[Floats, Floats | None]:
        """The metric's item scores `(n,)`, and its weights where it has them."""
        return self.columns[metric.column], self.columns[metric.weight] if metric.weight else None

    def at(self, rows: NDArray[np.intp]) -> Items:
        """Only these rows, in this order."""
        return Items(
            tuple(self.ids[row] for row in rows),
            tuple(self.groups[row] for row in rows),
            {name: values[rows] for name, values in self.columns.items()},
        )

    def where(self, group: str | frozenset[str]) -> Items:
        """The items of one group, or of several."""
        wanted = {group} if isinstance(group, str) else group
        return self.at(np.array([i for i, name in enumerate(self.groups) if name in wanted], dtype=np.intp))


def align(first: Items, second: Items) -> tuple[Items, Items]:
    """Both with the items that they share, in the first one's order."""
    if first.ids == second.ids:
        return first, second
    place = {item: row for row, item in enumerate(second.ids)}
    rows = [row for row, item in enumerate(first.ids) if item in place]
    others = [place[first.ids[row]] for row in rows]
    return first.at(np.array(rows, dtype=np.intp)), second.at(np.array(others, dtype=np.intp))


def difference(
    dense: Items, variant: Items, metric: Metric, resamples: int = intervals.RESAMPLES
) -> paired.Difference | None:
    """The paired difference of a metric; None where one side's samples do not have it."""
    if not (dense.has(metric) and variant.has(metric)):
        return None
    before, after = align(dense, variant)
    values, weights = before.values(metric)
    return paired.paired(values, after.values(metric)[0], metric.kind, weights, resamples=resamples)


def aggregate(items: Items, metric: Metric) -> float:
    """The metric over these items; NaN where they do not have it."""
    if not items.has(metric):
        return math.nan
    values, weights = items.values(metric)
    return intervals.aggregate(values, metric.kind, weights)


def score(items: Items, metric: Metric, resamples: int = intervals.RESAMPLES) -> dict[str, float]:
    """value, low, high, stderr, n and missing of a metric over these items."""
    values, weights = items.values(metric)
    low, high, stderr = intervals.interval(values, metric.kind, weights, resamples=resamples)
    known = int(np.isfinite(values).sum())
    return {
        "value": aggregate(items, metric),
        "low": low,
        "high": high,
        "stderr": stderr,
        "n": known,
        "missing": len(values) - known,
    }
