"""A bet against a statement about a mean, which may be looked at after every item.

Who bets a share of the capital on every item, at odds that are fair or worse if the statement is true, has
at any time more than 1 / alpha times the first capital with a chance of at most alpha (Ville's inequality).
So the statement is rejected as soon as the capital is that large, however often one looks (I. Waudby-Smith
and A. Ramdas, "Estimating means of bounded random variables by betting", 2024, arXiv 2010.09686). Here the
capital is spread over fixed shares and never moved between them, which needs no guess at the variance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kick.stats.support import Support

Floats = NDArray[np.float64]
SHARES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)  # of the largest bet, which a single item could lose whole


def capital(gains: Floats, worst: float) -> Floats:
    """The largest log capital so far after each of `gains` `(..., n)`, none of which is below `-worst`.

    Against "their mean is at most 0", starting with capital 1.
    """
    each = np.stack([np.log1p(gains * (share / worst)).cumsum(axis=-1) for share in SHARES])
    now = np.logaddexp.reduce(each, axis=0) - np.log(len(SHARES))
    largest: Floats = np.maximum.accumulate(now, axis=-1)
    return largest


def matches(pairs: Floats, support: Support, margin: float, alpha: float) -> bool:
    """Whether the second of `pairs` `(n, 2)` is shown to be within the margin of the first: that it is above
    the lower edge and below the upper one, with an error of at most alpha for each at any n.

    Scores must not be negative, and their highest must be known.
    """
    return bool((evidence(pairs[:, 0], pairs[:, 1], support, margin)[..., -1] >= -np.log(alpha)).all())


def evidence(first: Floats, second: Floats, support: Support, margin: float) -> Floats:
    """The log capital `(2, ..., n)` against "at the lower edge or below" and "at the upper edge or above"."""
    low, high = 1 - margin, 1 + margin
    above = capital(second - low * first, low * support.high - support.low)
    below = capital(high * first - second, support.high - high * support.low)
    return np.stack([above, below])
