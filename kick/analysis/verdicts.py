"""The verdict on a difference in words: one rule for the page, `kick compare` and every export."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import pandas as pd

from kick.stats import metrics

Row: TypeAlias = Mapping[str, Any] | pd.Series  # of the frame: columns by name

WITHIN_NOISE = "inside the noise"
WITHIN_ORDERS = "inside the noise of compression"


def verdict(
    shown: str, gap: float, higher_is_better: bool, inside_noise: bool, inside_orders: bool = False
) -> str:
    """ "matching", "worse", "better", "undecided", "inside the noise", "inside the noise of compression",
    "dense", or "" if there is none.

    `shown`: what the test says (`kick.stats.paired`). A gap that a dense replica shows too, or that another
    order of the calibration sequences closes (`kick.analysis.bands`), is not a difference, whatever the test
    says; what is shown to match matches, inside the noise or not.
    """
    if shown in ("dense", "matching"):
        return shown
    if inside_noise:
        return WITHIN_NOISE
    if inside_orders:
        return WITHIN_ORDERS
    if shown == "not matching":
        return "better" if (gap > 0) == higher_is_better and gap != 0 else "worse"
    return shown


def of_row(row: Row) -> str:
    """The verdict of a row of the frame in words, see `verdict`."""
    return verdict(
        str(row["verdict"]),
        float(row["gap"]),
        bool(row["higher_is_better"]),
        bool(row["within_noise"]),
        bool(row["within_orders"]),
    )


def apart(row: Row) -> bool:
    """Whether a distance to dense, which has no verdict, is beyond the noise of dense replicas and its
    interval does not reach dense's own value; False of other metrics."""
    if row["dense"] or row["replica"] or not metrics.describe(row["metric"]).ends_at_dense:
        return False
    low, high = row["gap_low"], row["gap_high"]
    clear = math.isfinite(low) and math.isfinite(high) and (low > 0 or high < 0)
    return bool(clear and not row["within_noise"])


def noise(gaps: Iterable[float]) -> float:
    """The noise floor: the largest gap of a dense replica to dense; NaN if none was measured."""
    return max((abs(gap) for gap in gaps if math.isfinite(gap)), default=math.nan)


def inside(gap: float, floor: float) -> bool:
    """Whether a gap is inside the noise; a floor of no width holds nothing."""
    return floor > 0 and abs(gap) <= floor
