"""What so many items can show: from how many on a match is possible, and how many would decide a cell."""

from __future__ import annotations

import math
from bisect import bisect_left

import numpy as np

from kick.stats import equivalence, flip_looks
from kick.stats.equivalence import LIMIT, Outcomes
from kick.stats.flips import Asked
from kick.stats.metrics import Metric
from kick.stats.sequential import Design, Floats, Rule, count, family, sample

MOST = 1_000_000  # items, beyond which nothing is forecast
LIKELY = 0.5  # the chance of a verdict at which a number of items is said to decide


def least_items(right: float, margin: float) -> int:
    """The least number of items at which a variant can be shown to match, if it answers every one as dense.

    right: dense's score, of right/wrong items the share that it has right. Raises ValueError for one that is
    not above 0 and at most 1.
    """
    if not 0 < right <= 1:
        raise ValueError(f"dense's score must be above 0 and at most 1; got {right}")

    def possible(n: int) -> bool:
        hits = round(n * right)
        return equivalence.of_outcomes(Outcomes(0, 0, hits, n - hits), margin) == "matching"

    most = math.ceil(20 / (right * margin))
    return bisect_left(range(most), True, key=possible)


def items_to_decide(design: Design, values: Floats, metric: Metric, rule: Rule) -> int | None:
    """About how many items would decide a cell, of which the first `values` `(n,)` were asked.

    The least number at which a verdict is as likely as not, if the change goes on as it was: more than N if
    the task does not have as many. None for metrics without a verdict, and if a million do not.
    """
    values = np.asarray(values, dtype=float)
    kind = family(design, values, metric, rule)
    totals = np.unique(np.geomspace(max(len(values), 1), MOST, 280).round())
    if kind == "flips":
        chances = flip_looks.chance(
            _grown(count(design, values), totals), rule.margin, np.full(len(totals), LIMIT)
        )
    elif kind in ("graded", "logs"):
        seen = sample(design, values, metric, rule)
        chances = np.array([seen.chance(LIMIT, int(total)) for total in totals])
    else:
        return None
    enough = np.flatnonzero(chances >= LIKELY)
    return int(totals[enough[0]]) if len(enough) else None


def _grown(found: Asked, totals: Floats) -> Asked:
    """The same counts of what was asked, as a part of so many items `(t,)`."""
    size = found.all_right.sum() + found.all_wrong.sum()
    times = np.maximum(totals / max(size, 1), 0)[:, None]
    asked = [np.broadcast_to(part, (len(totals), len(part))).astype(float) for part in found[2:]]
    right, wrong = (np.maximum(part * times, own) for part, own in zip(found[:2], asked[:2], strict=True))
    return Asked(right, wrong, *asked)
