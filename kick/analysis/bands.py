"""The noise of compression: how far a variant's scores move with the order of its calibration sequences.

A replica of kind order is its variant again with the same sequences in another order, which changes nothing
but how sums are rounded. Replicas have no rows of their own: their scores are a band around the variant's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from kick.analysis.cells import StoredCell
from kick.analysis.items import aggregate, align
from kick.records import Score, Variant, canonical, jsonable
from kick.stats import metrics


@dataclass(frozen=True)
class Band:
    """The least and the largest score over `count` orders of the calibration, the variant's own included."""

    low: float
    high: float
    count: int


class Reordered:
    """The cells of other orders among cells that were asked the same, by the variant that they repeat."""

    def __init__(self, cells: Iterable[StoredCell]):
        self._found: dict[str, list[StoredCell]] = {}
        for cell in cells:
            if cell.variant.reordered:
                self._found.setdefault(_content(cell.variant), []).append(cell)

    def moves(self, cell: StoredCell) -> dict[str, list[float]]:
        """By how much each other order moves each score of a variant's cell; none if there is one order only.

        Of a variant that was asked fewer items than its other orders, on those items.
        """
        others = self._found.get(_content(cell.variant), []) if self._found else []
        if cell.variant.reordered or not others:
            return {}
        moved = {score.metric: [_move(cell, score, other) for other in others] for score in cell.run.scores}
        return {metric: [move for move in by if move is not None] for metric, by in moved.items()}


def band(value: float, moves: Sequence[float]) -> Band | None:
    """The band of a score that other orders move by `moves`; None without any."""
    if not moves or not math.isfinite(value):
        return None
    ends = [value, *(value + move for move in moves)]
    return Band(min(ends), max(ends), len(ends))


def rows(cells: Iterable[StoredCell]) -> list[StoredCell]:
    """The cells that are rows of a report: all but those of other orders."""
    return [cell for cell in cells if not cell.variant.reordered]


def columns(moves: Sequence[float], value: float, dense: float) -> dict[str, float | int | bool]:
    """The columns of a row with this score, beside the dense score."""
    found = band(value, moves)
    if found is None:
        return {"order_low": math.nan, "order_high": math.nan, "orders": 0, "within_orders": False}
    inside = closed(value - dense, [], moves)
    return {"order_low": found.low, "order_high": found.high, "orders": found.count, "within_orders": inside}


def closed(gap: float, first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether a gap, second minus first, is inside both bands: other orders of the two are level.

    `first`, `second`: by how much other orders move each side. Bands without width hold nothing.
    """
    low, high = min([0.0, *first]), max([0.0, *first])
    least, most = gap + min([0.0, *second]), gap + max([0.0, *second])
    return (high > low or most > least) and low <= most and least <= high


def _content(variant: Variant) -> str:
    """The variant without its names and the order of its calibration."""
    calibration = variant.calibration and replace(variant.calibration, order=0)
    bare = replace(variant, name="", label="", replica=None, calibration=calibration)
    return canonical(jsonable(asdict(bare), str))


def _move(cell: StoredCell, own: Score, other: StoredCell) -> float | None:
    """The other order's score minus the variant's, on the items that both were asked."""
    theirs = next((score for score in other.run.scores if score.metric == own.metric), None)
    if theirs is None or theirs.value is None or own.value is None:
        return None
    if theirs.n == own.n:
        return theirs.value - own.value
    first, second = align(cell.items(), other.items())
    metric = metrics.describe(own.metric)
    move = aggregate(second, metric) - aggregate(first, metric)
    return move if math.isfinite(move) else None
