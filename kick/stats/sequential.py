"""When a variant's verdict is known before all items are asked: the rule, the looks, and what a look says.

A cell is asked in waves, in a fixed order; after each wave (a look) `decide` says whether its verdict is
reached. Dense has answered every item before. docs/statistics.md has the error rates.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kick.records import canonical

Floats = NDArray[np.float64]
Verdict = Literal["matching", "worse", "better", "undecided", ""]
Reason = Literal["decided", "futile", "precise", "all asked", "no rule"]
VERSION = 1  # of the rule; part of every stopped cell's key
FIRST, FIRST_OF_FEW, FEW = 24, 16, 64  # items at the first look; of at most FEW items; what few are


@dataclass(frozen=True)
class Rule:
    """How a cell may end early.

    margin: the share of dense's score within which a variant matches. precision: the half-width of the 95 %
    interval, in the metric's unit (of shares: 0.02 is two points), that is asked for as well; None for none.
    futility: the cell ends undecided if the chance of a verdict at all items is below this share; 0 never.
    looks: numbers of items at which it is looked, None for those of `looks`.
    """

    margin: float = 0.05
    precision: float | None = None
    futility: float = 0.1
    looks: tuple[int, ...] | None = None
    version: int = VERSION

    @property
    def text(self) -> str:
        """The rule as JSON text, for a task's spec and so for the cell's key."""
        return canonical(asdict(self))

    @classmethod
    def of(cls, text: str) -> Rule:
        """The rule that `text` was taken of."""
        data = json.loads(text)
        return cls(**{**data, "looks": tuple(data["looks"]) if data["looks"] else None})


@dataclass(frozen=True)
class Design:
    """What is known before a variant is asked, items in the order in which they are asked.

    dense: its item scores `(N,)`, NaN if missing. strata: a whole number per item `(N,)`, of a group of items
    that are sampled at a rate of their own; all 0 for the uniform order.
    """

    dense: Floats
    strata: NDArray[np.int64]


@dataclass(frozen=True)
class Decision:
    """What a look says. `done`: the cell may end here.

    gap: variant minus dense over all N items, as estimated; score: dense's mean over N plus gap; low, high:
    the gap's repeated 95 % interval, which holds at every look.
    """

    done: bool
    verdict: Verdict
    reason: Reason
    asked: int
    of: int
    score: float = math.nan
    gap: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def record(self) -> Mapping[str, Any]:
        """The decision as JSON values, for `Result.stopping`; NaN is None."""
        values = asdict(self)
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in values.items()
            if name != "done"
        }


def looks(total: int, rule: Rule) -> tuple[int, ...]:
    """The numbers of items at which it is looked, growing, the last one `total`.

    The first at 24 items (16 if there are at most 64), the others by a constant factor: four looks for 96
    items, five for 256, six for 1,000, eight for 14,042.
    """
    if rule.looks:
        return (*(n for n in rule.looks if n < total), total)
    first = FIRST_OF_FEW if total <= FEW else FIRST
    if total <= first:
        return (total,)
    steps = round(1.95 + 0.8 * math.log(total / first))
    found = [round(first * (total / first) ** (step / steps)) for step in range(steps)]
    return (*dict.fromkeys(n for n in found if n < total), total)
