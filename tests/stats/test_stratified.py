"""Differences of n of N items, weighted by strata."""

import math

import numpy as np
import pytest

from kick.stats import sequential
from kick.stats.paired import How, paired
from kick.stats.stratified import Sampled, Strata, difference, mean, strata
from kick.stats.support import BINARY, REAL, SHARE

FEW = How(resamples=1000)


def test_the_gap_is_lost_and_won_by_denses_own_answer():
    """Dense has 6 of 10 right; of the 5 asked 2 are right (1 lost) and 3 wrong (1 won)."""
    dense = np.array([1, 1, 0, 0, 0, 1, 1, 1, 1, 0], float)
    variant = np.array([1, 0, 1, 0, 0], float)
    layers = strata(dense, np.arange(5))
    assert layers.sizes.tolist() == [4, 6]
    assert layers.weights == pytest.approx([1.5, 1.5, 2 / 3, 2 / 3, 2 / 3])
    assert mean(dense[:5], layers) == pytest.approx(0.6)
    assert mean(variant, layers) == pytest.approx(0.6 / 2 + 0.4 / 3)
    found = difference(Sampled(np.c_[dense[:5], variant], layers, "mean", BINARY), 3, FEW)
    assert found.gap == pytest.approx(-0.6 / 2 + 0.4 / 3)  # the plain difference is 0
    assert (found.n, found.lost, found.won, found.same) == (5, 1, 1, 3)
    assert found.low < found.gap < found.high
    assert math.isnan(found.p)
    assert math.isnan(found.detectable)
    # lost: 1 and 0, won: 1, 0 and 0; sample variances 1/2 and 1/3
    assert found.stderr == pytest.approx(math.sqrt(0.36 * 0.5 / 2 + 0.16 / 3 / 3))


def test_a_stratum_without_an_asked_item_counts_with_the_nearest():
    layers = strata(np.array([0, 0, 1, 5, 5, 5]), np.array([0, 3, 4]))
    assert layers.of.tolist() == [0, 1, 1]
    assert layers.sizes.tolist() == [3, 3]
    assert layers.weights.mean() == pytest.approx(1)


def test_of_all_items_the_gap_is_the_plain_one():
    rng = np.random.default_rng(3)
    dense, variant = (rng.random((2, 80)) < 0.6).astype(float)
    graded = rng.random((80, 2))
    everything = np.arange(80)
    for pairs, support in ((np.c_[dense, variant], BINARY), (graded, SHARE), (graded, REAL)):
        for layers in (strata(dense, everything), strata(np.zeros(80), everything)):
            found = difference(Sampled(pairs, layers, "mean", support), 1, FEW)
            plain = paired(*pairs.T, support=support, how=FEW)
            assert found.gap == pytest.approx(plain.gap)
            assert found.high - found.low == pytest.approx(plain.high - plain.low, rel=0.2)


def test_perplexities_are_brought_together_by_document():
    rng = np.random.default_rng(4)
    documents = np.repeat(np.arange(12), 3)
    first = rng.normal(3, 0.3, 12)[documents] + rng.normal(0, 0.1, 36)
    second = first + 0.02 + rng.normal(0, 0.01, 36)
    one = Strata(np.zeros(36, int), np.array([100]))
    found = difference(Sampled(np.c_[first, second], one, "exp_mean", REAL, documents), 1, FEW)
    plain = paired(first, second, "exp_mean", units=documents, how=FEW)
    assert (found.gap, found.low, found.high) == pytest.approx((plain.gap, plain.low, plain.high))
    assert (found.verdict, found.units) == (plain.verdict, 12) == ("matching", 12)
    wider = difference(Sampled(np.c_[first, second], one, "exp_mean", REAL, documents), 5, FEW)
    assert wider.low < found.low < found.high < wider.high


def test_the_margin_is_the_callers():
    lengths = np.linspace(10, 20, 40)
    for margin, expected in ((0.05, "matching"), (0.02, "not matching")):
        how = How(margin, resamples=500)
        for kind, pairs in (
            ("mean", np.c_[lengths, 1.03 * lengths]),
            ("exp_mean", np.c_[lengths, lengths + math.log(1.03)]),
        ):
            one = Strata(np.zeros(40, int), np.array([90]))
            assert difference(Sampled(pairs, one, kind), 2, how).verdict == expected


def test_few_items_show_nothing():
    one = Strata(np.zeros(1, int), np.array([9]))
    assert difference(Sampled(np.ones((1, 2)), one), 1).verdict == "undecided"
    assert difference(Sampled(np.ones((0, 2)), Strata(np.zeros(0, int), np.array([]))), 1).n == 0


@pytest.mark.parametrize(("lost", "won"), [(0.08, 0.05), (0.03, 0.0)])
def test_no_look_is_wrong_more_often_than_it_says(lost, won):
    """Two variants of which the second is worse by exactly the margin, looked at five times."""
    rng, wrong, outside, studies = np.random.default_rng(5), 0, 0, 60
    looks = sequential.looks(256, sequential.Rule())
    for _ in range(studies):
        dense, first = (rng.random((2, 256)) < [[0.7], [0.6]]).astype(float)
        flips = rng.random(256)
        second = np.where(first == 1, flips >= lost / 0.6, flips < won / 0.4).astype(float)
        found = [
            difference(
                Sampled(np.c_[first, second][:n], strata(dense, np.arange(n)), "mean", BINARY),
                len(looks),
                How(resamples=500),
            )
            for n in looks
        ]
        wrong += any(one.verdict in ("matching", "not matching") for one in found)
        outside += not all(one.low <= won - lost <= one.high for one in found)
    assert wrong <= 6
    assert outside <= 5
