"""Values that an item's score can take, as its metric declares them: every interval and test is chosen by it.

A support is declared with the metric and never read off the values: a column of zeros of a graded metric is
graded, and a KL divergence that happens to be 0 everywhere is not a share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-9  # by which a score may pass an end of its scale


@dataclass(frozen=True)
class Support:
    """The least and the highest score of an item; `binary`: only these two occur (wrong and right)."""

    low: float = -math.inf
    high: float = math.inf
    binary: bool = False

    @property
    def bounded(self) -> bool:
        """Whether both ends are known, so that what a sample has not shown can be bounded."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def of(self, scores: NDArray[np.float64]) -> Support:
        """This support if the scores keep to it, else the next wider one that they do keep to.

        A task of the user's own may give a known name to something else (an F1 in per cent, an accuracy that
        is a mean over parts); what is shown with a wider support holds for those as well.
        """
        if self.binary and not ((scores == self.low) | (scores == self.high)).all():
            return Support(self.low, self.high).of(scores)
        outside = bool(scores.size) and (
            scores.min() < self.low - ROUNDING or scores.max() > self.high + ROUNDING
        )
        return REAL if outside else self


BINARY = Support(0.0, 1.0, binary=True)
SHARE = Support(0.0, 1.0)
GRADE = Support(1.0, 10.0)
COUNT = Support(0.0)  # of tokens, words, nats: no highest value is known
REAL = Support()
