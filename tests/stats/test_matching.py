"""Verdicts keep their 5 %: enumerated over all outcomes of right/wrong items, simulated for graded ones."""

from bisect import bisect_left
from functools import cache
from itertools import product

import numpy as np
import pytest
from scipy import stats

from kick.stats.equivalence import Outcomes, of_outcomes, outcomes
from kick.stats.paired import MARGIN, How, paired
from kick.stats.support import BINARY, SHARE

CERTAIN = 1e-7  # outcomes less probable than this are counted as errors


@cache
def verdict(*outcome: int) -> str:
    return of_outcomes(Outcomes(*outcome), MARGIN)


@cache
def turning(lost: int, won: int, wanted: str) -> int:
    """From how many items right on both sides "matching" is said, or below how many "not matching"."""
    return bisect_left(
        range(5000), True, key=lambda r: (wanted == verdict(lost, won, r, 1)) == (wanted == "matching")
    )


def error(n: int, p: float, fewer: float, side: str, wanted: str) -> float:
    """The exact chance of a verdict among n items where dense is right with chance p, the smaller way of
    flipping has the chance `fewer`, and the change is the margin: a loss ("low") or a gain ("high")."""
    lost, won = (fewer + MARGIN * p, fewer) if side == "low" else (fewer, fewer + MARGIN * p)
    if lost > p or won > 1 - p + 1e-12:
        return 0.0
    found = 0.0
    for some_lost in range(n + 1):
        chance = stats.binom.pmf(some_lost, n, lost)
        if chance < CERTAIN:
            found += chance
            continue
        given = min(1.0, won / (1 - lost)) if lost < 1 else 0.0
        w = np.arange(n - some_lost + 1)
        for some, own in zip(w, chance * stats.binom.pmf(w, n - some_lost, given), strict=True):
            if own < CERTAIN:
                found += own
                continue
            rest = n - some_lost - some
            share = min(1.0, (p - lost) / max(1 - lost - won, 1e-12))
            turn, most = turning(some_lost, int(some), wanted), rest - 1  # of items wrong on both sides: one
            within = stats.binom.sf(turn - 1, rest, share) - stats.binom.sf(most, rest, share)
            if wanted != "matching":
                within = stats.binom.cdf(min(turn - 1, most), rest, share)
            whole = wanted == verdict(some_lost, int(some), int(rest), 0)
            found += own * (max(0.0, within) + whole * stats.binom.pmf(rest, rest, share))
    return found


GRID = [(41, 1.0), (59, 1.0), (59, 0.95), (60, 0.9), (96, 0.54), (96, 0.8), (96, 0.95), (96, 1.0)]


@pytest.mark.parametrize(("n", "p"), GRID)
def test_a_change_at_the_margin_is_matching_in_at_most_five_percent(n, p):
    worst = max(error(n, p, fewer, side, "matching") for fewer in (0.0, 0.01) for side in ("low", "high"))
    assert worst <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("n", "p"), product((64, 132, 256, 400), (0.3, 0.54, 0.6, 0.8, 0.95, 1.0)))
def test_a_change_at_the_margin_is_matching_in_at_most_five_percent_everywhere(n, p):
    flips = (0.0, 0.005, 0.02, 0.05, 0.1)
    for wanted in ("matching", "not matching"):
        assert max(error(n, p, fewer, side, wanted) for fewer in flips for side in ("low", "high")) <= 0.05


@pytest.mark.parametrize("p", [0.3, 0.6, 1.0])
def test_a_change_at_the_margin_is_worse_or_better_in_at_most_five_percent(p):
    assert (
        max(error(64, p, fewer, side, "not matching") for fewer in (0.0, 0.03) for side in ("low", "high"))
        <= 0.05
    )


def test_without_a_flip_matching_needs_what_a_loss_at_the_margin_would_have_shown():
    """(1 - margin * p) ** n <= 5 %, p the share that dense gets right: 59 of 59, 41 of 41 is undecided."""
    assert paired(np.ones(41), np.ones(41), support=BINARY).verdict == "undecided"
    assert paired(np.ones(58), np.ones(58), support=BINARY).verdict == "undecided"
    assert paired(np.ones(59), np.ones(59), support=BINARY).verdict == "matching"
    for n in range(2, 500, 3):
        for right in range(1, n + 1, 2):
            if verdict(0, 0, right, n - right) == "matching":
                assert (1 - MARGIN * right / n) ** n <= 0.05
    assert verdict(0, 0, 62, 38) == verdict(0, 0, 5000, 9000) == "matching"


def test_one_flip_takes_what_the_exact_binomial_bound_takes():
    """Lost items among all right ones are a binomial share, bounded by Clopper and Pearson."""
    for n in range(60, 400, 7):
        for lost in range(8):
            high, low = stats.beta.ppf(0.95, lost + 1, n - lost), stats.beta.ppf(0.05, lost, n - lost + 1)
            assert (verdict(lost, 0, n - lost, 0) == "matching") == (high <= MARGIN)
            assert (verdict(lost, 0, n - lost, 0) == "not matching") == (lost > 0 and low >= MARGIN)


def test_thousands_of_items_are_decided_as_the_normal_test_does():
    """At n = 14,042 the exact rule and the two one-sided z tests agree but for a sliver."""
    n, right, won = 14_042, 6000, 300
    for lost in range(300, 900, 5):
        gap, square = won - lost, (1 - MARGIN) ** 2 * lost + won + MARGIN**2 * right
        z = (gap + MARGIN * (right + lost)) / np.sqrt(square)
        if abs(z - 1.645) > 0.1 and gap < 0:
            assert (verdict(lost, won, right, n - right - lost - won) == "matching") == (z > 1.645)


def test_outcomes_are_counted():
    pairs = np.array([[1, 0], [1, 1], [0, 1], [0, 0], [1, 0]], dtype=float)
    assert outcomes(pairs) == Outcomes(lost=2, won=1, right=1, wrong=1)


def test_graded_scores_have_no_jump():
    """Identical answers and one item 0.0001 lower have one verdict, and the same bounds to 0.0001."""
    rng = np.random.default_rng(1)
    for n in (24, 96, 400):
        dense = rng.beta(0.6, 0.6, n)
        nearly = dense.copy()
        nearly[0] = max(0.0, nearly[0] - 1e-4)
        same, near = (
            paired(dense, other, support=SHARE, how=How(resamples=4000)) for other in (dense, nearly)
        )
        assert same.verdict == near.verdict == ("matching" if n == 400 else "undecided")
        assert (near.low, near.high) == pytest.approx((same.low, same.high), abs=1e-4)
        assert same.low < 0 < same.high


@pytest.mark.parametrize(("n", "rate"), [(96, 0.05), (256, 0.05), (256, 0.02)])
def test_few_items_lost_whole_are_seldom_matching(n, rate):
    """F1 at the margin: a few items are lost whole, or the rest is lost by a little each."""
    rng = np.random.default_rng(n)
    matching, trials = 0, 400
    for _ in range(trials):
        dense = rng.beta(4.0, 1.0, n)
        lost = rng.random(n) < rate
        small = MARGIN - rate  # what is not lost whole is lost evenly, to the margin in all
        variant = np.where(lost, 0.0, dense * (1 - small / (1 - rate)))
        matching += paired(dense, variant, support=SHARE, how=How(resamples=1000)).verdict == "matching"
    assert matching / trials <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / trials)


def test_graded_and_right_wrong_rules_agree_where_every_score_is_whole():
    rng = np.random.default_rng(3)
    for lost in (0, 2, 6, 20):
        dense = (np.arange(300) < 200).astype(float)
        variant = dense.copy()
        variant[rng.choice(200, lost, replace=False)] = 0
        found = {paired(dense, variant, support=support).verdict for support in (BINARY, SHARE)}
        assert len(found) == 1


def test_the_margin_is_the_callers():
    """Items right on both sides show a loss below m from (1 - m) ** n <= 5 % on: 29 at 10 %, 149 at 2 %."""
    for margin, enough in ((0.1, 29), (0.05, 59), (0.02, 149)):
        how = How(margin, resamples=200)
        found = [
            paired(np.ones(n), np.ones(n), support=BINARY, how=how).verdict for n in (enough - 1, enough)
        ]
        assert found == ["undecided", "matching"]
    nll, lengths = np.linspace(2, 4, 40), np.linspace(10, 20, 40)
    for margin, expected in ((0.05, "matching"), (0.02, "not matching")):  # both are 3 % more, on every item
        how = How(margin, resamples=500)
        assert paired(nll, nll + np.log(1.03), "exp_mean", how=how).verdict == expected
        assert paired(lengths, lengths * 1.03, how=how).verdict == expected
        assert paired(nll / 10, nll / 10 * 1.5, support=SHARE, how=how).verdict == "not matching"
