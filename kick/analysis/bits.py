"""Right or wrong, item by item, as bits: small enough that a page holds those of all variants."""

from __future__ import annotations

import base64
from typing import TypedDict

import numpy as np

from kick.analysis.items import Items
from kick.stats.metrics import Metric


class Bits(TypedDict):
    """A bit per item of dense, in its order: base64 of bytes, the first item in the high bit.

    n: how many items dense has; known: whether the item has a score, "" if all have.
    """

    n: int
    right: str
    known: str


def of(dense: Items, theirs: Items, metric: Metric) -> Bits | None:
    """The bits of a cell's items; None if any is graded. Items that dense was not asked have no place."""
    if not theirs.has(metric) or metric.kind != "mean" or metric.weight:
        return None
    scores = theirs.columns[metric.column]
    if theirs.ids != dense.ids:
        place = {item: row for row, item in enumerate(theirs.ids)}
        rows = [place.get(item) for item in dense.ids]
        scores = np.array([np.nan if row is None else scores[row] for row in rows], dtype=float)
    known = np.isfinite(scores)
    if not known.any() or not np.isin(scores[known], (0.0, 1.0)).all():
        return None
    return Bits(n=len(dense.ids), right=_packed(scores == 1.0), known="" if known.all() else _packed(known))


def _packed(bits: np.ndarray) -> str:
    return base64.b64encode(np.packbits(bits).tobytes()).decode()


def unpacked(text: str, n: int) -> np.ndarray:
    """The bits (n,) of a text."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), dtype=np.uint8), count=n).astype(bool)
