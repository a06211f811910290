"""How long a variant's answers are compared with dense's: the ratio of tokens, item by item.

The reference lengths are dense's own, as in the length term of O1-Pruner (Luo et al. 2025, arXiv
2501.12570): its reward is the inverse of this ratio less one. Items that both answer rightly and the others
are told apart, since an answer that went astray has another length for another reason. Answers that the token
limit cut are left out of both; the score `unfinished` says how many they are.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kick.analysis.cells import StoredCell, by_asked, describe
from kick.analysis.headlines import headline
from kick.analysis.items import Floats, Items, align
from kick.analysis.pairs import Keeping
from kick.analysis.rows import compared
from kick.analysis.stopped import early
from kick.stats import metrics

RATIOS = ("length_ratio_right", "length_ratio_other")


def rows(cells: Sequence[StoredCell], kept: Keeping) -> Iterator[dict[str, Any]]:
    """The ratios of every variant on every generated task with a headline of right and wrong answers."""
    for asked in by_asked(cell for cell in cells if _measured(cell)).values():
        dense = next((cell for cell in asked if cell.variant.dense), None)
        if dense is None:
            continue
        metric = headline(dense.run)
        for cell in asked:
            make = functools.partial(_statistics, cell, dense, metric)
            made_of: list[str | StoredCell] = [
                "lengths",
                cell.role,
                metric,
                repr(cell.run.margin),
                cell,
                dense,
            ]
            found = kept.get(cell, made_of, make)
            facts = {**describe(cell), "seconds": 0.0, "compress_seconds": 0.0} if found else {}
            yield from ({**facts, "group": "", **row} for row in found)


def _measured(cell: StoredCell) -> bool:
    names = {score.metric for score in cell.run.scores}
    binary = metrics.describe(headline(cell.run)).support.binary
    return "answer_tokens" in names and binary and not early(cell)


def _statistics(cell: StoredCell, dense: StoredCell, metric: str) -> list[dict[str, Any]]:
    theirs, ours = align(cell.items(), dense.items())
    if not theirs.ids or any(metric not in one.columns for one in (theirs, ours)):
        return []
    columns = Items(theirs.ids, theirs.groups, ratios(theirs.columns, ours.columns, metric))
    before = Items(theirs.ids, theirs.groups, ratios(ours.columns, ours.columns, metric))
    found = (
        compared(metrics.describe(name), columns, before, cell.variant.dense, cell.run.margin)
        for name in RATIOS
    )
    return [row for row in found if row["n"]]


def ratios(theirs: Mapping[str, Floats], dense: Mapping[str, Floats], metric: str) -> dict[str, Floats]:
    """The columns log_length_ratio_right and _other `(n,)` of two sides of the same items, in nats.

    NaN for an item of the other kind, and if either answer has no token or was cut.
    """
    known = [(one["answer_tokens"] > 0) & (one["unfinished"] == 0) for one in (theirs, dense)]
    right = (theirs[metric] >= 0.5) & (dense[metric] >= 0.5)
    logs = np.full(len(right), np.nan)
    both = known[0] & known[1]
    logs[both] = np.log(theirs["answer_tokens"][both] / dense["answer_tokens"][both])
    return {
        "log_length_ratio_right": np.where(right, logs, np.nan),
        "log_length_ratio_other": np.where(right, np.nan, logs),
    }
