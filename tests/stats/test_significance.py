"""The statistics hold what they state: by simulation, and against closed forms."""

import math
import time

import numpy as np
import pytest
from scipy import stats

from kick.stats.intervals import aggregate, interval, resampled_means, spread, wilson
from kick.stats.paired import How, detectable, holm, mcnemar, paired
from kick.stats.support import BINARY, COUNT, SHARE

PAIRS = 2000


def right_wrong(rng, n, share=0.5, lost=0.1, won=0.1):
    """Two variants' right/wrong items, of which `lost` and `won` shares flip."""
    dense = (rng.random(n) < share).astype(float)
    draw = rng.random(n)
    flip = np.where(dense == 1, draw < lost / share, draw < won / (1 - share))
    return dense, np.where(flip, 1 - dense, dense)


def graded(rng, n, effect=0.0):
    """Two variants' skewed item scores: as F1, many at the ends."""
    dense = rng.beta(0.6, 0.6, n)
    return dense, dense + rng.normal(effect, 0.2, n)


def test_no_difference_is_rejected_in_five_percent_of_graded_pairs():
    rng = np.random.default_rng(1)
    p = [paired(*graded(rng, 120), how=How(resamples=3000)).p for _ in range(PAIRS)]
    assert 0.04 <= np.mean(np.array(p) < 0.05) <= 0.06


def test_no_difference_is_rejected_in_five_percent_of_right_wrong_pairs():
    rng = np.random.default_rng(2)
    found = [
        paired(*right_wrong(rng, 1500, lost=0.2, won=0.2), support=BINARY, how=How(resamples=200))
        for _ in range(PAIRS)
    ]
    assert all(one.test == "mcnemar" for one in found)
    assert 0.04 <= np.mean([one.p < 0.05 for one in found]) <= 0.06
    assert 0.04 <= np.mean([mcnemar(one.lost, one.won, mid=True) < 0.05 for one in found]) <= 0.06


def test_the_exact_mcnemar_never_rejects_too_often_on_few_flips():
    """Exactly, not by simulation: its size over all outcomes of m flips."""
    for flips in (5, 12, 30, 100):
        lost = np.arange(flips + 1)
        reject = np.array([mcnemar(k, flips - k) < 0.05 for k in lost])
        assert stats.binom.pmf(lost, flips, 0.5)[reject].sum() <= 0.05


def test_the_interval_of_a_score_covers_in_ninety_five_percent():
    rng = np.random.default_rng(3)
    inside_share = inside_grade = inside_perplexity = 0
    for _ in range(PAIRS):
        low, high, _ = interval(rng.random(150) < 0.35, support=BINARY)
        inside_share += low <= 0.35 <= high
        low, high, _ = interval(rng.beta(0.6, 0.9, 100), resamples=3000)
        inside_grade += low <= 0.4 <= high
        low, high, _ = interval(rng.normal(3.2, 0.4, 30), "exp_mean", resamples=3000)
        inside_perplexity += low <= math.exp(3.2) <= high
    for inside in (inside_share, inside_grade, inside_perplexity):
        assert 0.94 <= inside / PAIRS <= 0.96


def test_a_mean_of_few_counts_is_not_said_to_be_below_none():
    low, high, _ = interval([0.0, 0.0, 9.0], support=COUNT)
    assert low == 0.0
    assert high > 9.0  # three items leave more open than they show
    low, _, _ = interval([-1.0, 0.0, 9.0])
    assert low < 0.0


def test_the_interval_of_a_difference_covers_in_ninety_five_percent():
    rng = np.random.default_rng(4)
    inside_flips = inside_grades = 0
    for _ in range(PAIRS):
        found = paired(*right_wrong(rng, 800, lost=0.15, won=0.05), support=BINARY, how=How(resamples=1000))
        inside_flips += found.low <= -0.1 <= found.high
        found = paired(*graded(rng, 100, effect=0.05), how=How(resamples=3000))
        inside_grades += found.low <= 0.05 <= found.high
    assert 0.94 <= inside_flips / PAIRS <= 0.96
    assert 0.94 <= inside_grades / PAIRS <= 0.96


def test_a_planted_difference_is_found_at_the_stated_power():
    rng = np.random.default_rng(5)
    effect = detectable(100, 0.2)
    found = [paired(*graded(rng, 100, effect), how=How(resamples=3000)).p < 0.05 for _ in range(PAIRS)]
    assert 0.77 <= np.mean(found) <= 0.83


def test_planted_flips_are_found_at_the_stated_power():
    rng = np.random.default_rng(6)
    n, flips = 1500, 0.2
    effect = detectable(n, math.sqrt(flips))
    lost, won = (flips + effect) / 2, (flips - effect) / 2
    made = [right_wrong(rng, n, lost=lost, won=won) for _ in range(1000)]
    found = [paired(*pair, support=BINARY, how=How(resamples=200)) for pair in made]
    assert 0.75 <= np.mean([one.p < 0.05 for one in found]) <= 0.84
    assert np.mean([one.detectable for one in found]) == pytest.approx(effect, rel=0.02)


def test_matching_is_seldom_claimed_at_the_margin_and_mostly_where_it_holds():
    rng = np.random.default_rng(7)
    at_margin, equal, apart = [], [], []
    for _ in range(500):
        dense = rng.normal(0.6, 0.2, 150)
        at_margin.append(
            paired(dense, dense - 0.03 + rng.normal(0, 0.05, 150), how=How(resamples=1000)).verdict
        )
        equal.append(paired(dense, dense + rng.normal(0, 0.05, 150), how=How(resamples=1000)).verdict)
        apart.append(paired(dense, dense - 0.06 + rng.normal(0, 0.05, 150), how=How(resamples=1000)).verdict)
    assert at_margin.count("matching") / 500 <= 0.08
    assert at_margin.count("not matching") / 500 <= 0.08
    assert equal.count("matching") / 500 >= 0.99
    assert apart.count("not matching") / 500 >= 0.99


def test_agreement_on_a_few_items_is_undecided_and_on_many_matching():
    few, many = np.ones(48), np.ones(2000)
    few[24:] = many[1000:] = 0
    for support in (BINARY, SHARE):
        assert paired(few, few, support=support).verdict == "undecided"
        assert paired(few, few, support=support).low < 0 < paired(few, few, support=support).high
        assert paired(many, many, support=support).verdict == "matching"
        assert paired(many, many, support=support).p == 1
    assert paired(many / 2 + 0.1, many / 2 + 0.1, support=SHARE).low < 0  # graded shares that do not differ


def test_a_perplexity_matches_within_five_percent_of_the_ratio():
    rng = np.random.default_rng(8)
    nll = rng.normal(3.2, 0.3, 200)
    noise = rng.normal(0, 0.01, 200)
    close, far = paired(nll, nll + 0.01 + noise, "exp_mean"), paired(nll, nll + 0.1 + noise, "exp_mean")
    assert close.verdict == "matching"
    assert far.verdict == "not matching"
    assert far.gap == pytest.approx(aggregate(nll + 0.1 + noise, "exp_mean") - aggregate(nll, "exp_mean"))
    assert far.low < far.gap < far.high
    assert far.p < 1e-4


def test_nothing_is_called_worse_that_mcnemar_calls_chance():
    """Five of 32 lost and none won: past the margin at one-sided 5 %, but p = 2 / 2^5."""
    dense = np.array([1.0] * 7 + [0.0] * 25)
    variant = dense.copy()
    variant[:5] = 0.0
    found = paired(dense, variant, support=BINARY)
    assert found.p == pytest.approx(0.0625)
    assert found.verdict == "undecided"
    variant[5] = 0.0
    assert paired(dense, variant, support=BINARY).verdict == "not matching"


def test_a_dense_score_of_zero_has_no_verdict():
    assert paired(np.zeros(50), np.ones(50), support=BINARY).verdict == ""
    assert paired(np.zeros(50), np.ones(50), support=SHARE).verdict == ""


def test_missing_items_leave_both_sides_of_the_pair():
    dense = [1, 1, 0, math.nan, 1, 0, 1]
    variant = [1, 0, 0, 1, math.nan, 0, 0]
    found = paired(dense, variant, support=BINARY)
    assert (found.n, found.lost, found.won) == (5, 2, 0)
    assert found.gap == pytest.approx(-0.4)


def test_too_few_items_give_nan_and_no_error():
    assert all(math.isnan(number) for number in interval([0.3]))
    assert math.isnan(paired([], []).gap)
    assert paired([1.0], [0.0]).verdict == "undecided"
    assert math.isnan(aggregate([math.nan]))
    assert math.isnan(detectable(1, 0.5))


def test_a_handful_of_items_is_not_taken_for_many():
    nll, closer = [6.575, 6.577], [6.574, 6.577]
    found = paired(nll, closer, "exp_mean")
    assert found.high - found.low > 5 * found.stderr
    assert found.p > 0.05
    rng = np.random.default_rng(11)
    inside = 0
    for _ in range(1000):
        low, high, _ = interval(rng.normal(0.5, 0.1, 6), resamples=1000)
        inside += low <= 0.5 <= high
    assert 0.93 <= inside / 1000 <= 0.97
    low, high, _ = interval([0.0, 0.1, 0.9], support=SHARE)
    assert 0 <= low < 0.1
    assert 0.8 < high <= 1


def test_weights_divide_by_their_sum():
    nll, words = np.array([10.0, 40.0, 24.0]), np.array([4.0, 10.0, 8.0])
    assert aggregate(nll, "exp_mean", words) == pytest.approx(math.exp(74 / 22))
    low, high, stderr = interval(nll, "exp_mean", words)
    assert low < math.exp(74 / 22) < high
    assert stderr > 0
    assert paired(nll, nll + words * 0.1, "exp_mean", words).gap == pytest.approx(
        math.exp(74 / 22 + 0.1) - math.exp(74 / 22)
    )


def test_the_same_seed_gives_the_same_numbers_and_drawing_ways_agree():
    rng = np.random.default_rng(9)
    values = rng.integers(0, 40, 1000) / 40.0
    assert interval(values) == interval(values)
    few = resampled_means(values[:, None], 4000)  # 40 distinct values: one multinomial
    many = resampled_means(values[:, None] + rng.normal(0, 1e-9, (1000, 1)), 4000)  # item by item
    assert few.mean() == pytest.approx(many.mean(), abs=1e-3)
    assert few.std() == pytest.approx(many.std(), rel=0.05)


def test_ten_thousand_resamples_of_fourteen_thousand_items_take_seconds():
    rng = np.random.default_rng(10)
    dense = rng.normal(size=14_000)
    start = time.process_time()
    paired(dense, dense + rng.normal(size=14_000))
    assert time.process_time() - start < 30  # a slow machine takes 4; with a loop over items, minutes


def test_wilson_is_scipys_and_never_a_point():
    assert wilson(0, 40)[0] == 0
    assert wilson(0, 40)[1] > 0.05
    low, high = wilson(30, 40)
    assert low < 0.75 < high
    assert interval([1] * 30 + [0] * 10, support=BINARY)[:2] == (low, high)
    theirs = stats.binomtest(30, 40).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((theirs.low, theirs.high))


def test_mcnemar_is_the_two_sided_binomial_test():
    assert mcnemar(0, 0) == 1
    assert mcnemar(1, 9) == pytest.approx(2 * stats.binom.cdf(1, 10, 0.5))
    assert mcnemar(9, 1) == mcnemar(1, 9)
    assert mcnemar(1, 9, mid=True) < mcnemar(1, 9)


def test_holm_orders_and_keeps_what_is_missing():
    adjusted = holm([0.01, math.nan, 0.04, 0.03])
    assert adjusted[0] == pytest.approx(0.03)
    assert math.isnan(adjusted[1])
    assert adjusted[2] == adjusted[3] == pytest.approx(0.06)
    assert math.isnan(holm([math.nan])[0])


def test_seeds_are_spread_apart_from_items():
    assert spread([0.4, 0.5, 0.6]) == pytest.approx((0.5, 0.1, 3))
    assert math.isnan(spread([0.4]).sd)


def test_a_difference_of_shares_is_no_larger_than_all():
    found = paired([0.0, 1.0], [1.0, 0.0], support=BINARY)
    assert (found.low, found.high) == (-1.0, 1.0)
    found = paired([0.0, 1.0], [1.0, 0.0], support=SHARE)
    assert -1.0 <= found.low < -0.5
    assert 0.5 < found.high <= 1.0
    assert paired([0.0, 9.0], [9.0, 0.0]).high > 9.0
