"""The paired difference of two cells of which either may have ended before all of its items were asked.

Dense has answered every item, so a stopped cell is compared with it as on the page: by the rule that ended
it. Two others are compared on the items that both were asked, weighted by stratum of dense's own answer, at
levels that hold at every look at which a cell may have ended (`kick.stats.stratified.difference`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from kick.analysis import items, stopped, stopping
from kick.analysis.cells import StoredCell
from kick.analysis.items import Items, aggregate
from kick.analysis.rows import number
from kick.stats import stratified
from kick.stats.equivalence import Verdict
from kick.stats.intervals import aggregate as together
from kick.stats.metrics import Metric, support_of
from kick.stats.paired import Difference, How
from kick.stats.stratified import Sampled


class Between(NamedTuple):
    """Both scores and the difference b minus a; `of`: how many items the task has."""

    a: float
    b: float
    difference: Difference
    of: int


class Side(NamedTuple):
    """A cell and its items."""

    cell: StoredCell
    items: Items

    @property
    def dense(self) -> bool:
        return self.cell.variant.dense

    @property
    def early(self) -> bool:
        return stopped.early(self.cell)


def between(a: Side, b: Side, cells: Sequence[StoredCell], metric: Metric) -> Between | None:
    """The difference of b and a among the cells of their question; None if a side has not the metric."""
    how = How(b.cell.run.margin)
    if not (a.items.has(metric) and b.items.has(metric)):
        return None
    ruled = stopping.deciding(b.cell.run) == metric
    if ruled and a.early and b.dense:
        return _mirrored(_beside_dense(b, a, metric))
    if ruled and b.early and a.dense:
        return _beside_dense(a, b, metric)
    if a.early or b.early:
        dense = next((cell.items() for cell in cells if cell.variant.dense), None)
        return _on_shared(a, b, dense, metric, how)
    found = items.difference(a.items, b.items, metric, dense=a.dense, how=how)
    assert found is not None
    told = stopped.stop(b.cell)
    if told and ruled and a.dense and metric.compared and stopped.decided(told):
        found = replace(found, verdict=_shown(told.verdict))
    return Between(aggregate(a.items, metric), aggregate(b.items, metric), found, len(a.items.ids))


def _beside_dense(dense: Side, theirs: Side, metric: Metric) -> Between:
    """As the frame has it (`kick.analysis.stopped.headline`)."""
    row = stopped.headline(theirs.cell, metric, dense.items, theirs.items)
    flips = [row.get(name) for name in ("lost", "won")]
    lost, won = (None if count is None else int(count) for count in flips)
    found = Difference(
        n=row["n"],
        gap=row["gap"],
        low=row["gap_low"],
        high=row["gap_high"],
        verdict=row["verdict"],
        lost=lost,
        won=won,
        relative_low=row["relative_low"],
        relative_high=row["relative_high"],
        units=row["n"],
        same=int(number(row.get("same"))) if row.get("same") is not None else 0,
    )
    return Between(row["dense_value"], row["value"], found, len(dense.items.ids))


def _mirrored(found: Between) -> Between:
    """Dense against a variant: what is shown to lose more than the margin of dense's score is shown to be
    passed by more than the margin of its own. What is shown to match or to be better says less the other
    way round, where the margin is a share of another score."""
    one = found.difference
    worse = one.verdict == "not matching" and found.b < found.a
    verdict: Verdict = one.verdict if worse or not one.verdict else "undecided"
    mirrored = replace(
        one,
        gap=-one.gap,
        low=-one.high,
        high=-one.low,
        lost=one.won,
        won=one.lost,
        verdict=verdict,
        relative_low=math.nan,
        relative_high=math.nan,
    )
    return Between(found.b, found.a, mirrored, found.of)


def _on_shared(a: Side, b: Side, dense: Items | None, metric: Metric, how: How) -> Between | None:
    """Both on the items that both were asked; without dense all items are of one stratum."""
    found = stopped.known(dense if dense is not None else a.items, metric, a.items, b.items)
    if found is None:
        return None
    layers = found.strata(metric)
    if dense is None:
        layers = layers._replace(of=np.zeros_like(layers.of), sizes=np.array([len(layers.of)]))
    pairs = np.column_stack(found.others)
    support, weights = support_of(metric, found.everything.columns), found.weights(metric)
    sampled = Sampled(pairs, layers, metric.kind, support, found.units(metric), weights)
    gap = stratified.difference(sampled, max(stopped.looked(side.cell, metric) for side in (a, b)), how)
    total = 1.0 if weights is None else stratified.mean(weights, layers)
    first, second = (together([stratified.mean(side, layers) / total], metric.kind) for side in pairs.T)
    of = max(stop.of for stop in map(stopped.stop, (a.cell, b.cell)) if stop)
    return Between(first, second, gap if metric.compared else replace(gap, verdict=""), of)


def _shown(verdict: str) -> Verdict:
    shown = stopped.SHOWN.get(verdict, verdict)
    return shown if shown in ("matching", "not matching", "undecided") else ""  # type: ignore[return-value]
