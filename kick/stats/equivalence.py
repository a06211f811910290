"""Whether a score is shown to lie within a margin of another one on the same items, or outside of it.

Four one-sided statements at 5 % each: the second score is above (1 - m) of the first, below (1 + m) of it
("matching": both), below (1 - m) of it, or above (1 + m) of it ("not matching": one of them). For scores
with known ends each is Gaffke's bound (`kick.stats.bounded`) of second - share * first; for right/wrong
items that bound has a closed form, and its error is enumerated over all outcomes in the tests: at most 4.6
% wherever the true change is at the margin. Without a flip "matching" needs (1 - m) ** right <= 5 % against
a loss, 59 items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from kick.stats.bounded import Bounds

Floats = NDArray[np.float64]
Verdict = Literal["matching", "not matching", "undecided", ""]
LIMIT = 0.05  # of each one-sided statement


class Outcomes(NamedTuple):
    """Numbers of items lost, won, right on both sides and wrong on both."""

    lost: int
    won: int
    right: int
    wrong: int


def outcomes(pairs: Floats) -> Outcomes:
    """The outcomes of right/wrong `pairs` `(n, 2)`, 1 where right."""
    first, second = pairs[:, 0] == 1, pairs[:, 1] == 1
    parts = (first & ~second, ~first & second, first & second, ~first & ~second)
    return Outcomes(*(int(part.sum()) for part in parts))


def of_outcomes(found: Outcomes, margin: float) -> Verdict:
    """The verdict on right/wrong items, exactly."""
    low, high = 1 - margin, 1 + margin
    if above(found, low) <= LIMIT and below(found, high) <= LIMIT:
        return "matching"
    return "not matching" if below(found, low) <= LIMIT or above(found, high) <= LIMIT else "undecided"


def of_bounds(found: Bounds, margin: float, limit: float = LIMIT) -> Verdict:
    """The verdict on items whose scores have known ends; `limit`: of each one-sided statement."""
    low, high = 1 - margin, 1 + margin
    above_low, above_high = (np.quantile(found.lost[1] - at * found.lost[0], limit) for at in (low, high))
    below_low, below_high = (np.quantile(found.won[1] - at * found.won[0], 1 - limit) for at in (low, high))
    return of_limits(above_low > 0, below_high < 0, below_low < 0 or above_high > 0)


def of_limits(above_low: bool, below_high: bool, outside: bool) -> Verdict:
    """The verdict by what was shown: above the lower margin, below the upper one, outside of both."""
    if above_low and below_high:
        return "matching"
    return "not matching" if outside else "undecided"


def above(found: Outcomes, share: float) -> float:
    """p against "the second score is at most `share` of the first"; an item more is imagined as lost."""
    lost = found.lost + 1
    if share <= 1:
        return _exceeds(lost, share, [(found.won, 1.0), (found.right, 1 - share)])
    return 1 - _exceeds(found.won, 1.0, [(lost, share), (found.right, share - 1)])


def below(found: Outcomes, share: float) -> float:
    """p against "the second score is at least `share` of the first"; an item more is imagined as won."""
    room = found.won + found.wrong > 0  # where the first side is always right, the best is right on both
    won, right = found.won + room, found.right + (not room)
    if share <= 1:
        return 1 - _exceeds(found.lost, share, [(won, 1.0), (right, 1 - share)])
    return _exceeds(won, 1.0, [(found.lost, share), (right, share - 1)])


def _exceeds(count: int, scale: float, others: Sequence[tuple[int, float]]) -> float:
    """P(scale * G(count) > sum of s * G(k) over the others), G(k) a gamma variate of shape k, 0 for k = 0.

    A Poisson process of rate 1 / scale has fewer than `count` events by the time s * G(k) with a chance
    that is negative binomial in k; so this is the chance that two negative binomial numbers sum to less
    than `count`.
    """
    if count == 0:
        return 0.0
    events = np.arange(count)
    (first, one), (second, other) = others
    fewer = _cdf(count - 1 - events, second, other / scale)
    return float(_pmf(events, first, one / scale) @ fewer)


def _pmf(events: NDArray[np.int64], shape: int, rate: float) -> Floats:
    certain = shape == 0 or rate == 0
    chances: Floats = (
        (events == 0).astype(float) if certain else stats.nbinom.pmf(events, shape, 1 / (1 + rate))
    )
    return chances


def _cdf(events: NDArray[np.int64], shape: int, rate: float) -> Floats:
    if shape == 0 or rate == 0:
        return np.ones(len(events))
    chances: Floats = stats.nbinom.cdf(events, shape, 1 / (1 + rate))
    return chances
