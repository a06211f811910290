"""Looks at right/wrong items: what each says, and whether a cell may end there. Many studies at once.

A verdict needs the exact bounds of `kick.stats.flips`, each at the one-sided level that
`kick.stats.spending` gives the look. The last look, at all items, is the fixed rule of `kick.stats.paired`:
at 5 % if there are few items, where exact bounds leave so much of the 5 % unused that the looks before fit in
as well, else at what these have left. A cell whose verdict is improbable even with all items ends undecided.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from kick.stats import flips, spending
from kick.stats.equivalence import LIMIT
from kick.stats.flips import Asked, Beta, Bools, Floats

Codes = NDArray[np.int64]
UNDECIDED, MATCHING, LOWER, HIGHER = range(4)
GOING, DECIDED, FUTILE, ALL = range(4)
TAIL = 0.025  # of the interval, and of the test of no difference, on either side
CLOSE = 1.0  # standard errors before a bound from which on its exact test is computed
FEW = 9  # nodes of each rate in a predictive chance
SMALL, SURE, WIDE = (
    256,
    0.9,
    0.1,
)  # items, dense's score and margin up to which the last look has all of the 5 %


class Schedule(NamedTuple):
    """Looks and their levels: numbers of items, the level of each statement and the tail of the interval."""

    looks: tuple[int, ...]
    levels: tuple[float, ...]
    tails: tuple[float, ...]
    margin: float
    futility: float
    precision: float | None
    usual: bool


@lru_cache(maxsize=64)
def schedule(
    looks: tuple[int, ...], margin: float, futility: float, precision: float | None, usual: bool = True
) -> Schedule:
    """The schedule with these looks, the last one at all items; `usual`: they were not chosen by a user."""
    shares = tuple(look / looks[-1] for look in looks)
    levels, tails = spending.levels(shares, LIMIT), spending.levels(shares, TAIL)
    return Schedule(looks, levels, tails, margin, futility, precision, usual)


class Walked(NamedTuple):
    """Of each study `(r,)`: the verdict, why it ended, and the index of the look at which it did (the last
    one if it goes on)."""

    verdict: Codes
    why: Codes
    look: Codes


def walk(found: Asked, by: Schedule) -> Walked:
    """Walk through the looks: counts `(looks, r, h)`, of the first looks of the schedule."""
    count, runs = found.lost.shape[:2]
    verdict, why = np.zeros(runs, dtype=np.int64), np.zeros(runs, dtype=np.int64)
    look = np.full(runs, count - 1)
    for at in range(count):
        going = np.flatnonzero(why == GOING)
        if not len(going):
            break
        here, last = found.of((at, going)), at == len(by.looks) - 1
        new = verdict[going] == UNDECIDED
        levels = last_levels(here, by)
        level = levels if last else np.full(len(going), by.levels[at])
        verdict[going[new]] = shown(here.of(new), by.margin, level[new], last)
        ended = np.where(verdict[going] != UNDECIDED, DECIDED, GOING)
        if by.futility > 0 and not last:
            open_ = np.flatnonzero(ended == GOING)
            futile = chance(here.of(open_), by.margin, levels[open_]) < by.futility
            ended[open_[futile]] = FUTILE
        if by.precision is not None:
            low, high = flips.interval(here, by.tails[at])
            ended[~((high - low) / 2 <= by.precision)] = GOING  # NaN is not precise
        ended[:] = ALL if last else ended
        why[going], look[going[ended != GOING]] = ended, at
    return Walked(verdict, why, look)


def last_levels(found: Asked, by: Schedule) -> Floats:
    """The level `(r,)` of the last look, by what dense says and by the number of items."""
    few = len(by.looks) > 1 and by.usual and by.looks[-1] <= SMALL and by.margin <= WIDE
    levels: Floats = np.where(few & (_share(found) <= SURE), LIMIT, by.levels[-1])
    return levels


def shown(found: Asked, margin: float, level: Floats, last: bool = False) -> Codes:
    """What these counts `(r, h)` show with each statement at these levels `(r,)`; `last`: all were asked."""
    found = found.pooled if last else found
    at, se = flips.gap(found), _stderr(found)
    edge, z = margin * _share(found), -special.ndtri(level) - CLOSE
    verdict = np.zeros(len(at), dtype=np.int64)
    known = found.all_right.sum(-1) > 0
    near = np.flatnonzero(known & (np.abs(at) < edge) & (edge - np.abs(at) > z * se))
    near = near[flips.above(found.of(near), 1 - margin) <= level[near]]
    verdict[near[flips.below(found.of(near), 1 + margin) <= level[near]]] = MATCHING
    for sign, code, bound in ((-1, LOWER, flips.below), (1, HIGHER, flips.above)):
        far = np.flatnonzero(known & (sign * at > edge) & (sign * at - edge > z * se))
        far = far[bound(found.of(far), 1 + sign * margin) <= level[far]]
        verdict[far[_differs(found.of(far), bound, last)]] = code
    return verdict


def _differs(found: Asked, bound: object, last: bool) -> Bools:
    """Whether there is a difference at all, two-sided at 5 %: McNemar's exact test if all were asked."""
    if last:
        lost, won = found.lost.sum(-1), found.won.sum(-1)
        p = 2 * special.bdtr(np.minimum(lost, won), (lost + won).astype(int), 0.5)
        differs: Bools = p < 2 * TAIL
        return differs
    return (flips.below if bound is flips.below else flips.above)(found, 1.0) <= TAIL


def _share(found: Asked) -> Floats:
    """The share that the first side has right."""
    right = found.all_right.sum(-1)
    share: Floats = right / np.maximum(right + found.all_wrong.sum(-1), 1)
    return share


def _stderr(found: Asked) -> Floats:
    """The standard error of the post-stratified change, as observed."""
    total = np.maximum((found.all_right + found.all_wrong).sum(-1, keepdims=True), 1)
    variance = np.zeros(len(found.lost))
    for flipped, asked, of in (
        (found.lost, found.right, found.all_right),
        (found.won, found.wrong, found.all_wrong),
    ):
        rate, n = flipped / np.maximum(asked, 1), np.maximum(asked, 1)
        variance += ((of / total) ** 2 * rate * (1 - rate) / n).sum(-1)
    stderr: Floats = np.sqrt(variance)
    return stderr


def chance(found: Asked, margin: float, level: Floats) -> Floats:
    """The predictive chance `(r,)` that all items will show a verdict at these levels `(r,)`.

    Both rates have Jeffreys' prior; given them, the change over all items and its test are taken as normal,
    with the variance of a match at least as large as the margin implies.
    """
    rows = np.stack([*found, np.broadcast_to(level[:, None], found.lost.shape)], axis=1)
    distinct, place = np.unique(rows, axis=0, return_inverse=True)
    unique = Asked(*np.moveaxis(distinct[:, :-1], 1, 0))
    z = -special.ndtri(distinct[:, -1, :1])[:, :, None]
    p, total = _share(unique), (unique.all_right + unique.all_wrong).sum(-1)
    lost = _final(unique.lost, unique.right, unique.all_right)
    won = _final(unique.won, unique.wrong, unique.all_wrong)
    loss, gain = p[:, None, None] * lost.rate[:, :, None], (1 - p)[:, None, None] * won.rate[:, None, :]
    change = gain - loss
    sd = np.sqrt(
        (p**2)[:, None, None] * lost.variance[:, :, None]
        + ((1 - p) ** 2)[:, None, None] * won.variance[:, None, :]
    )
    edge, n = (margin * p)[:, None, None], np.maximum(total, 1)[:, None, None]
    flipped = loss + gain - change**2
    implied = edge + 2 * np.minimum(loss, gain) - edge**2
    narrow = edge - z * np.sqrt(np.maximum(flipped, implied) / n)
    wide = np.maximum(edge + z * np.sqrt(flipped / n), 1.96 * np.sqrt(flipped / n))
    sd = np.maximum(sd, 1e-9)
    inside = special.ndtr((narrow - change) / sd) - special.ndtr((-narrow - change) / sd)
    outside = special.ndtr((-wide - change) / sd) + special.ndtr((change - wide) / sd)
    each = np.maximum(inside, 0) + outside
    chances: Floats = np.einsum("ri,rj,rij->r", lost.weights, won.weights, each)
    return chances[place.ravel()]


class Final(NamedTuple):
    """Rates over all items, of one answer of the first side, given the true rate at each node `(r, FEW)`."""

    rate: Floats
    variance: Floats
    weights: Floats


def _final(flipped: Floats, asked: Floats, total: Floats) -> Final:
    share = total / np.maximum(total.sum(-1, keepdims=True), 1)
    each = Beta(flipped + 0.5, asked - flipped + 0.5)
    mean, variance = (share * each.mean).sum(-1), (share**2 * each.variance).sum(-1)
    size = np.maximum(mean * (1 - mean) / np.maximum(variance, 1e-300) - 1, 1e-6)
    empty = total.sum(-1) == 0
    at, weights = Beta(np.where(empty, 0.0, mean * size), np.where(empty, 1.0, (1 - mean) * size)).nodes(FEW)
    true = special.expit(at)
    known = np.divide(asked, total, out=np.ones_like(share), where=total > 0)
    seen = (share * np.divide(flipped, np.maximum(total, 1))).sum(-1)[:, None]
    left = (share * (1 - known)).sum(-1)[:, None]
    items = np.maximum(total.sum(-1), 1)[:, None]
    return Final(seen + left * true, left * true * (1 - true) / items, weights)
