"""The item scores of a cell as arrays, and two cells brought item by item to the same order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kick.records import Sample
from kick.stats import intervals, paired
from kick.stats.metrics import Metric, support_of, units_of
from kick.stats.paired import USUAL, How
from kick.stats.resample import RESAMPLES

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Items:
    """A cell's items: their ids, their groups, and one array `(n,)` per score, NaN if missing."""

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
        """The metric's item scores `(n,)`, and its weights if it has them."""
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
        chosen = {group} if isinstance(group, str) else group
        return self.at(np.array([i for i, name in enumerate(self.groups) if name in chosen], dtype=np.intp))


def align(first: Items, second: Items) -> tuple[Items, Items]:
    """Both with the items that they share, in the first one's order."""
    if first.ids == second.ids:
        return first, second
    place = {item: row for row, item in enumerate(second.ids)}
    rows = [row for row, item in enumerate(first.ids) if item in place]
    others = [place[first.ids[row]] for row in rows]
    return first.at(np.array(rows, dtype=np.intp)), second.at(np.array(others, dtype=np.intp))


def known(own: Items, metric: Metric) -> int:
    """How many of the items have the metric."""
    return int(_has(own, metric).sum())


def shared(first: Items, second: Items, metric: Metric) -> tuple[Items, Items]:
    """Both with the items that have the metric on both sides."""
    before, after = align(first, second)
    rows = np.flatnonzero(_has(before, metric) & _has(after, metric))
    return before.at(rows), after.at(rows)


def _has(own: Items, metric: Metric) -> NDArray[np.bool_]:
    values, weights = own.values(metric)
    found = np.isfinite(values)
    return found if weights is None else found & np.isfinite(weights)


def difference(
    first: Items, second: Items, metric: Metric, *, dense: bool = True, how: How = USUAL
) -> paired.Difference | None:
    """The paired difference second minus first; None if one side's samples do not have the metric.

    `dense`: whether the first side is the dense model, with which a distance to it begins. A metric that is
    not compared has no verdict.
    """
    if not (first.has(metric) and second.has(metric)):
        return None
    before, after = align(first, second)
    values, weights = before.values(metric)
    found = paired.paired(
        values,
        after.values(metric)[0],
        metric.kind,
        weights,
        support=support_of(metric, before.columns),
        units=units_of(metric, before.columns),
        how=how,
    )
    if dense and metric.ends_at_dense:
        found = _from_zero(found, metric.higher_is_better)
    return found if metric.compared else replace(found, verdict="")


def _from_zero(found: paired.Difference, higher_is_better: bool) -> paired.Difference:
    """The difference of a distance to dense, than which nothing is nearer."""
    if higher_is_better:
        return replace(found, high=min(found.high, max(found.gap, 0.0)))
    return replace(found, low=max(found.low, min(found.gap, 0.0)))


def aggregate(items: Items, metric: Metric) -> float:
    """The metric over these items; NaN if they do not have it."""
    if not items.has(metric):
        return math.nan
    values, weights = items.values(metric)
    return intervals.aggregate(values, metric.kind, weights)


def score(items: Items, metric: Metric, resamples: int = RESAMPLES) -> dict[str, float]:
    """value, low, high, stderr, n, units and missing of a metric over these items."""
    values, weights = items.values(metric)
    units = units_of(metric, items.columns)
    low, high, stderr = intervals.interval(
        values,
        metric.kind,
        weights,
        support=support_of(metric, items.columns),
        units=units,
        resamples=resamples,
    )
    finite = np.isfinite(values)
    known = int(finite.sum())
    return {
        "value": aggregate(items, metric),
        "low": low,
        "high": high,
        "stderr": stderr,
        "n": known,
        "units": known if units is None else len(np.unique(units[finite])),
        "missing": len(values) - known,
    }
