"""Right/wrong items of which a part was asked, while the first side (dense) is known on all of them.

Items are drawn from a larger population in which the first side is right with chance theta, and the second
loses a share `lost` of those and wins a share `won` of the others. theta is known from all N items, the rates
from the n that were asked, so the change is post-stratified by the first side's own answer:
(1 - theta) won - theta lost.

A statement is tested as `kick.stats.equivalence` does, by gamma variates of which one more, imagined, item is
lost (or won): theta, lost and won are the independent beta variates that these make up, and for n = N the
chance is the same. Within strata that are asked at rates of their own, the rate of each is a beta variate,
the imagined item is in the stratum in which one item stands for most others, and the rate over all strata is
the beta variate of the same mean and variance (the effective sample size of Korn and Graubard 1998).

All arrays are `(..., h)` over h strata in, `(...)` out: many studies at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
NODES, FINE = (14, 32), (40, 48)  # of the integrals over theta and a rate: to a thousandth of the chance
FEW = 40  # items of either answer of the first side, up to which the fine ones are taken
REACH = 6.0  # standard deviations, of the log odds, to which they reach
_CHUNK = 2_000_000  # values held in memory at once


class Asked(NamedTuple):
    """Counts per stratum `(..., h)`: items that the first side has right and wrong, in all and of those that
    were asked; and of these, items lost and won by the second side."""

    all_right: Floats
    all_wrong: Floats
    right: Floats
    wrong: Floats
    lost: Floats
    won: Floats

    def of(self, chosen: Any) -> Asked:
        """The chosen studies: an index of the arrays' first dimensions."""
        return Asked(*(counts[chosen] for counts in self))

    @property
    def pooled(self) -> Asked:
        """All strata as one, as they are once all items were asked."""
        return Asked(*(counts.sum(axis=-1, keepdims=True) for counts in self))


class Beta(NamedTuple):
    """Beta variates, `(...)`: a = 0 is the number 0, b = 0 the number 1."""

    a: Floats
    b: Floats

    @property
    def mean(self) -> Floats:
        """The means; 0 for a = 0."""
        return np.where(self.a == 0, 0.0, self.a / np.maximum(self.a + self.b, 1e-300))

    @property
    def variance(self) -> Floats:
        """The variances."""
        variance: Floats = self.mean * (1 - self.mean) / (self.a + self.b + 1)
        return variance

    def nodes(self, count: int) -> tuple[Floats, Floats]:
        """Log odds and weights `(..., count)` that integrate over the variates; the weights sum to 1.

        The density of the log odds falls off exponentially on both sides, so equal steps are enough.
        """
        a, b = (np.maximum(part, 1e-12)[..., None] for part in self)
        sd = np.sqrt(special.zeta(2.0, np.maximum(a, 0.05)) + special.zeta(2.0, np.maximum(b, 0.05)))
        at = special.psi(a) - special.psi(b) + sd * np.linspace(-REACH, REACH, count)
        constant = (self.a == 0) | (self.b == 0)
        at = np.where(constant[..., None], np.where(self.a == 0, -np.inf, np.inf)[..., None], at)
        with np.errstate(invalid="ignore"):
            log = a * special.log_expit(at) + b * special.log_expit(-at)
        log = np.where(constant[..., None], 0.0, log)
        weights = np.exp(log - log.max(axis=-1, keepdims=True))
        return at, weights / weights.sum(axis=-1, keepdims=True)


class Model(NamedTuple):
    """theta and both rates as beta variates."""

    theta: Beta
    lost: Beta
    won: Beta


def lowest(found: Asked) -> Model:
    """What bounds the second side from below: an item more is imagined as lost."""
    lost = _rate(found.lost, found.right, found.all_right, imagined=True)
    won = _rate(found.won, found.wrong, found.all_wrong, imagined=False)
    return Model(Beta(found.all_right.sum(-1) + 1.0, found.all_wrong.sum(-1) + 0.0), lost, won)


def highest(found: Asked) -> Model:
    """What bounds it from above: an item more is imagined as won, or as right on both sides where the first
    side is right on every item."""
    right, wrong = found.all_right.sum(-1), found.all_wrong.sum(-1)
    room = wrong > 0
    lost = _rate(found.lost, found.right, found.all_right, imagined=False)
    won = _rate(found.won, found.wrong, found.all_wrong, imagined=True)
    lost = Beta(lost.a, lost.b + ~room)
    return Model(Beta(right + ~room + 0.0, wrong + room + 0.0), lost, won)


def _rate(flipped: Floats, asked: Floats, total: Floats, *, imagined: bool) -> Beta:
    """The rate of flips among the items of one answer of the first side."""
    if flipped.shape[-1] == 1:
        first = flipped[..., 0] + float(imagined)
        return Beta(first, (asked - flipped)[..., 0] + 0.0)
    share = total / np.maximum(total.sum(-1, keepdims=True), 1)
    stands_for = np.where(total > 0, share / np.maximum(asked, 1e-9), -1.0)
    heaviest = np.arange(flipped.shape[-1]) == stands_for.argmax(-1)[..., None]
    parts = Beta(flipped + float(imagined) * heaviest, asked - flipped)
    mean = (share * parts.mean).sum(-1)
    variance = (share**2 * parts.variance).sum(-1)
    variance += ((share * parts.mean**2).sum(-1) - mean**2) / np.maximum(total.sum(-1), 1)
    size = mean * (1 - mean) / np.maximum(variance, 1e-300) - 1
    exact = mean * (1 - mean) <= 0
    return Beta(
        np.where(exact, mean > 0, mean * np.maximum(size, 1e-6)),
        np.where(exact, mean == 0, (1 - mean) * np.maximum(size, 1e-6)),
    )


def above(found: Asked, share: float) -> Floats:
    """p against "the second side is right on at most `share` of what the first is"."""
    return _chances(lowest(found), np.full(found.lost.shape[:-1], 1 - share), 0.0)


def below(found: Asked, share: float) -> Floats:
    """p against "the second side is right on at least `share` of what the first is"."""
    chances: Floats = 1 - _chances(highest(found), np.full(found.lost.shape[:-1], 1 - share), 0.0)
    return chances


def gap(found: Asked) -> Floats:
    """The post-stratified change: second minus first over all items."""
    total = found.all_right.sum(-1) + found.all_wrong.sum(-1)
    lost = (found.all_right * _observed(found.lost, found.right)).sum(-1)
    won = (found.all_wrong * _observed(found.won, found.wrong)).sum(-1)
    change: Floats = (won - lost) / np.maximum(total, 1)
    return change


def _observed(flipped: Floats, asked: Floats) -> Floats:
    """Rates as counted, `(..., h)`; in a stratum of which nothing was asked, that of all strata."""
    pooled = flipped.sum(-1, keepdims=True) / np.maximum(asked.sum(-1, keepdims=True), 1)
    rates: Floats = np.where(asked > 0, flipped / np.maximum(asked, 1), pooled)
    return rates


def interval(found: Asked, tail: float) -> tuple[Floats, Floats]:
    """The change's interval that leaves at most `tail` on either side, by the bounds of the tests."""
    ends = []
    for model, chance in ((lowest(found), tail), (highest(found), 1 - tail)):
        low, high = (np.full(found.lost.shape[:-1], end) for end in (-1.0, 1.0))
        for _ in range(30):
            middle = (low + high) / 2
            under = _chances(model, np.zeros_like(middle), middle) < chance  # P(change < middle)
            low, high = np.where(under, middle, low), np.where(under, high, middle)
        ends.append((low + high) / 2)
    at = gap(found)
    return np.minimum(ends[0], at), np.maximum(ends[1], at)


def _chances(model: Model, start: Floats, change: Floats | float) -> Floats:
    """P(lost > start - change / theta + won * (1 - theta) / theta), `(...)`; the same studies once."""
    shape = start.shape
    columns = [start, np.broadcast_to(change, shape), *(part for beta in model for part in beta)]
    table = np.column_stack([np.broadcast_to(column, shape).ravel() for column in columns])
    rows, place = np.unique(table, axis=0, return_inverse=True)
    found = np.empty(len(rows))
    few = rows[:, 2:4].min(axis=1) <= FEW
    for chosen, nodes in ((few, FINE), (~few, NODES)):
        at, step = np.flatnonzero(chosen), max(1, _CHUNK // (nodes[0] * nodes[1]))
        for start_at in range(0, len(at), step):
            part = at[start_at : start_at + step]
            found[part] = _integral(rows[part], *nodes)
    chances: Floats = found[place.ravel()].reshape(shape)
    return chances


def _integral(rows: Floats, many: int, each: int) -> Floats:
    """The chances of distinct rows: two variates are integrated over, of the third the chance is known.

    The third is `lost` where the end is not negative (all is smooth in `won` then), else `won`; and theta if
    that one is a constant, or the change varies more by theta.
    """
    start, change, *parts = rows.T
    theta, lost, won = (Beta(*parts[at : at + 2]) for at in (0, 2, 4))
    odds = (1 - theta.mean) / np.maximum(theta.mean, 1e-12)
    by_lost = start >= change
    by_theta = odds * won.mean * np.sqrt(1 / np.maximum(theta.a, 1e-9) + 1 / np.maximum(theta.b, 1e-9))
    narrow = np.where(by_lost, lost.variance == 0, odds * np.sqrt(won.variance) <= by_theta)
    found = np.empty(len(rows))
    for chosen, chances in (
        (narrow, _over_rates),
        (~narrow & by_lost, _over_won),
        (~narrow & ~by_lost, _over_lost),
    ):
        if chosen.any():
            model = Model(*(Beta(*(part[chosen] for part in beta)) for beta in (theta, lost, won)))
            found[chosen] = chances(model, (start[chosen], change[chosen]), (many, each))
    return found


def _over_rates(model: Model, ends: tuple[Floats, Floats], nodes: tuple[int, int]) -> Floats:
    """The chance of theta at each pair of rates: that (lost + won - start) theta > won - change."""
    start, change = (end[:, None, None] for end in ends)
    (lost, first), (won, second) = (beta.nodes(n) for beta, n in zip(model[1:], nodes, strict=True))
    lost, won = special.expit(lost)[:, :, None], special.expit(won)[:, None, :]
    slope, level = lost + won - start, won - change
    with np.errstate(divide="ignore", invalid="ignore"):
        under = _cdf(model.theta.a[:, None, None], model.theta.b[:, None, None], level / slope)
    chances = np.where(slope > 0, 1 - under, np.where(slope < 0, under, level < 0))
    found: Floats = np.einsum("rl,rw,rlw->r", first, second, chances)
    return found


def _over_won(model: Model, ends: tuple[Floats, Floats], nodes: tuple[int, int]) -> Floats:
    """The chance of `lost` at each theta and rate `won`."""
    (ratio, end, first), (won, second) = _thetas(model, ends, nodes[0]), model.won.nodes(nodes[1])
    at = np.clip(end + ratio * special.expit(won)[:, None, :], 0, 1)
    chances = 1 - special.betainc(model.lost.a[:, None, None], model.lost.b[:, None, None], at)
    found: Floats = np.einsum("rt,rw,rtw->r", first, second, chances)
    return found


def _over_lost(model: Model, ends: tuple[Floats, Floats], nodes: tuple[int, int]) -> Floats:
    """The chance of `won` at each theta and rate `lost`."""
    (ratio, end, first), (lost, second) = _thetas(model, ends, nodes[0]), model.lost.nodes(nodes[1])
    at = np.clip((special.expit(lost)[:, None, :] - end) / np.maximum(ratio, 1e-300), 0, 1)
    chances = special.betainc(model.won.a[:, None, None], model.won.b[:, None, None], at)
    found: Floats = np.einsum("rt,rl,rtl->r", first, second, chances)
    return found


def _thetas(model: Model, ends: tuple[Floats, Floats], nodes: int) -> tuple[Floats, Floats, Floats]:
    """The odds against being right and the end of `lost` without wins `(rows, nodes, 1)`, and weights."""
    odds, weights = model.theta.nodes(nodes)
    end = ends[0][:, None] - ends[1][:, None] / np.maximum(special.expit(odds), 1e-12)
    return np.exp(np.minimum(-odds, 50.0))[:, :, None], end[:, :, None], weights


def _cdf(a: Floats, b: Floats, at: Floats) -> Floats:
    """P(variate <= at), of the number 1 (b = 0) too."""
    inner = special.betainc(a, np.maximum(b, 1e-300), np.clip(at, 0.0, 1.0))
    chances: Floats = np.where(at >= 1, 1.0, np.where((at < 0) | (b == 0), 0.0, inner))
    return chances
