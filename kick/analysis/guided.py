"""What guided decoding gains: a task asked guided beside the same task asked plainly, item by item.

A guided task's file names the plain one as its `pair`; that it was guided shows in its scores, which have
`replaced`. Both ask the same documents, so their items pair by id. The rows are in the frame under the guided
task, with a metric "gain@parses" for each metric of right and wrong items that both have: its value is the
mean of guided less plain, with the paired interval of that difference, and its gap compares a variant's gain
with dense's. Columns beside: plain_value, guided_value, gain_p (McNemar's exact test), replaced (tokens per
answer that were not the likeliest) and strayed (the share of answers whose guide was left).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kick.analysis.cells import StoredCell, by_asked, describe
from kick.analysis.headlines import info
from kick.analysis.items import Items, align, difference, known
from kick.analysis.pairs import Keeping
from kick.analysis.rows import compared
from kick.analysis.stopped import early
from kick.stats import metrics
from kick.stats.metrics import Metric

GAIN = "gain"
GUIDED = "replaced"  # a score that guided answers alone have
BESIDE = ("replaced", "strayed")

Both = tuple[StoredCell, StoredCell]  # plain, guided


def rows(cells: Sequence[StoredCell], kept: Keeping) -> Iterator[dict[str, Any]]:
    """The gains of every variant that was asked a task plainly and guided; none if nothing pairs."""
    whole = [cell for cell in cells if not early(cell)]
    plain = {(*cell.asked, cell.variant.name): cell for cell in whole}
    for asked in by_asked(cell for cell in whole if _guided(cell)).values():
        pairs = [(plain[place], cell) for cell in asked if (place := _pair(cell)) in plain]
        dense = next((pair for pair in pairs if pair[1].variant.dense), None)
        for pair in pairs:
            made_of: list[str | StoredCell] = ["guided", pair[1].role, *pair, *(dense or ())]
            found = kept.get(pair[1], made_of, functools.partial(_statistics, pair, dense))
            facts = {**describe(pair[1]), "seconds": 0.0, "compress_seconds": 0.0} if found else {}
            yield from ({**facts, "group": "", **row} for row in found)


def _guided(cell: StoredCell) -> bool:
    return bool(info(cell.run).pair) and any(score.metric == GUIDED for score in cell.run.scores)


def _pair(cell: StoredCell) -> tuple[str, ...]:
    """The place of the same variant's plain cell: matrix, base model, task, setting, variant."""
    matrix, base, _, setting = cell.asked
    return matrix, base, info(cell.run).pair, setting, cell.variant.name


def _statistics(pair: Both, dense: Both | None) -> list[dict[str, Any]]:
    sides = align(pair[0].items(), pair[1].items())
    before = align(dense[0].items(), dense[1].items()) if dense else None
    beside = {name: _mean(sides[1], name) for name in BESIDE}
    found = (_row(metric, sides, before, pair[1].variant.dense) for metric in _shared(pair))
    return [{**row, **beside} for row in found if row["n"]]


def _shared(pair: Both) -> list[Metric]:
    """The metrics of right and wrong items, of which more is better, that both cells have."""
    plain = {score.metric for score in pair[0].run.scores}
    both = [metrics.describe(score.metric) for score in pair[1].run.scores if score.metric in plain]
    return [one for one in both if one.compared and one.support.binary]


def _row(
    metric: Metric, sides: tuple[Items, Items], dense: tuple[Items, Items] | None, is_dense: bool
) -> dict[str, Any]:
    """The gain in one metric."""
    gain = metrics.describe(f"{GAIN}@{metric.name}")
    theirs, ours = _gains(sides, metric, gain), _gains(dense, metric, gain) if dense else None
    row = compared(gain, theirs, ours, is_dense)
    found = difference(*sides, metric, dense=False)
    if found is not None and found.n > 1:
        row |= {"low": found.low, "high": found.high, "stderr": found.stderr, "gain_p": found.p}
    rows = np.flatnonzero(np.isfinite(theirs.columns[gain.column]))
    values = [float(one.at(rows).columns[metric.column].mean()) if len(rows) else math.nan for one in sides]
    return {"gain_p": math.nan, **row, "plain_value": values[0], "guided_value": values[1]}


def _gains(sides: tuple[Items, Items], metric: Metric, gain: Metric) -> Items:
    """The items with guided less plain, NaN where either has no score."""
    plain, guided = (one.columns[metric.column] for one in sides)
    return Items(sides[1].ids, sides[1].groups, {gain.column: guided - plain})


def _mean(items: Items, name: str) -> float:
    """An item score's mean; NaN if no item has it."""
    metric = metrics.describe(name)
    has = name in items.columns and known(items, metric)
    return float(np.nanmean(items.columns[name])) if has else math.nan
