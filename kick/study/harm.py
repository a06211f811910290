"""What each block's loss does, and how well a metric predicts it: rank correlations with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from kick.analysis import items
from kick.analysis.headlines import headline
from kick.errors import KickError
from kick.stats import metrics
from kick.stats.ranks import spearman
from kick.store import Store
from kick.study.layers import LayerStudy

RESAMPLES = 2000
FIDELITY = ("fdt", "kl_mean")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measure:
    """A task's metric, and the cells' items of it: dense's and, by block, those without the block."""

    task: str
    metric: metrics.Metric
    dense: items.Items
    without: tuple[items.Items, ...]

    @property
    def name(self) -> str:
        """Name of its columns: "perplexity", "fdt", "kick_mini_mcq"."""
        return self.metric.name if self.metric.name in (*FIDELITY, "perplexity") else self.task


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of a metric with a measure's harm over blocks.

    low, high: 95 % of resampled items. n: items, units: how many of them are independent. chance: how far
    from 0 the correlation of unrelated ranks of so many blocks comes in 5 % of cases.
    """

    predictor: str
    measure: str
    rho: float
    low: float
    high: float
    n: int
    units: int
    chance: float


def read(study: LayerStudy, store: Store) -> list[Measure]:
    """The stored measures of a study. Raises KickError if a cell is missing."""
    found = []
    for task in study.tasks:
        dense = store.result(study.cell(study.dense, task).key)
        names = FIDELITY if task == study.options.fidelity else (headline(dense),)
        variants = [study.dense, *map(study.without, range(study.blocks))]
        first, *rest = (_items(store, study.cell(variant, task).key) for variant in variants)
        for name in names:
            metric = metrics.describe(name)
            if not first.has(metric):
                raise KickError(f"{task}: its items have no {metric.column}; `kick rescore` adds it")
            found.append(Measure(task, metric, first, tuple(items.align(first, one)[1] for one in rest)))
    return found


def _items(store: Store, key: str) -> items.Items:
    ids, groups, columns = store.arrays(key)
    return items.Items(tuple(ids), tuple(groups), columns)


def curves(measures: Sequence[Measure]) -> pd.DataFrame:
    """A row a block and measure: value, interval, and the paired difference to dense with its own.

    harm is the difference, turned so that more is worse.
    """
    rows = []
    for one in measures:
        dense = items.aggregate(one.dense, one.metric)
        for block, mine in enumerate(one.without):
            scored, gap = items.score(mine, one.metric), items.difference(one.dense, mine, one.metric)
            if gap is None:
                raise KickError(f"{one.task}: block {block} has no {one.metric.column}")
            row = {"block": block, "measure": one.name, "task": one.task, "metric": one.metric.name}
            row |= {"dense": dense, **{name: scored[name] for name in ("value", "low", "high", "n", "units")}}
            row |= {"gap": gap.gap, "gap_low": gap.low, "gap_high": gap.high}
            rows.append(row | {"harm": -gap.gap if one.metric.higher_is_better else gap.gap})
    return pd.DataFrame(rows)


def correlations(predictors: dict[str, list[float]], measures: Sequence[Measure]) -> list[Correlation]:
    """Every metric against every measure."""
    found = []
    for one in measures:
        column = np.stack([mine.columns[one.metric.column] for mine in one.without])  # (blocks, items)
        units = metrics.units_of(one.metric, one.dense.columns)
        column = -column if one.metric.higher_is_better else column
        finite = np.isfinite(column).all(axis=0)
        if not finite.any():
            raise KickError(f"{one.name}: no item has a score without every block; see `kick status`")
        column, units = column[:, finite], None if units is None else units[finite]
        drawn = _resampled(column, units)
        for name, values in predictors.items():
            own = np.array(values)
            rho, spread = spearman(own, column.mean(axis=1)[None])[0], spearman(own, drawn)
            spread = spread[np.isfinite(spread)]
            low, high = np.percentile(spread, [2.5, 97.5]) if len(spread) else (np.nan, np.nan)
            many = column.shape[1] if units is None else len(np.unique(units))
            found.append(Correlation(name, one.name, rho, low, high, column.shape[1], many, chance(len(own))))
    return found


def _resampled(column: Floats, units: Floats | None) -> Floats:
    """Means (RESAMPLES, blocks) over items (blocks, items) drawn again by unit, the same for all blocks."""
    names = np.arange(column.shape[1]) if units is None else np.unique(units, return_inverse=True)[1]
    many = int(names.max()) + 1 if len(names) else 0
    if many < 2:
        return np.empty((0, len(column)))
    sums, counts = np.zeros((len(column), many)), np.bincount(names, minlength=many).astype(float)
    for row, values in zip(sums, column, strict=True):
        row += np.bincount(names, weights=values, minlength=many)
    draws = np.random.default_rng(0).multinomial(many, np.full(many, 1 / many), size=RESAMPLES)
    return (draws @ sums.T) / (draws @ counts)[:, None]


def chance(blocks: int) -> float:
    """How far from 0 the rank correlation of unrelated ranks comes in 5 % of cases, by Student's t."""
    if blocks < 4:
        return 1.0
    t = stats.t.ppf(0.975, blocks - 2)
    return float(t / np.sqrt(blocks - 2 + t**2))
