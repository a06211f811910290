"""Each kind of score has its own interval, by its metric: coverage by simulation, and closed forms."""

import math

import numpy as np
import pytest
from scipy import stats

from kick.analysis.items import Items, difference, score
from kick.stats import metrics
from kick.stats.intervals import interval
from kick.stats.paired import How, paired
from kick.stats.support import BINARY, COUNT, GRADE, REAL, SHARE, Support

TRIALS = 400
SLACK = 2 * math.sqrt(0.05 * 0.95 / TRIALS)  # two standard errors of a simulated coverage


def items(**columns) -> Items:
    n = len(next(iter(columns.values())))
    return Items(
        tuple(map(str, range(n))), ("",) * n, {k: np.asarray(v, dtype=float) for k, v in columns.items()}
    )


def diverging(rng, n, share, ceiling=64):
    """FDT near its ceiling: few prompts diverge, and anywhere."""
    return np.where(rng.random(n) < share, rng.integers(0, ceiling, n), ceiling).astype(float)


@pytest.mark.parametrize("share", [0.02, 0.05, 0.3])
def test_fdt_near_its_ceiling_is_covered(share):
    rng = np.random.default_rng(1)
    n, truth = 40, 64 - share * 32.5
    inside = 0
    for _ in range(TRIALS):
        found = score(
            items(fdt=diverging(rng, n, share), positions=np.full(n, 64)), metrics.describe("fdt"), 2000
        )
        assert found["high"] <= 64
        assert found["high"] > found["low"]
        inside += found["low"] <= truth <= found["high"]
    assert inside / TRIALS >= 0.95 - SLACK


def test_fdt_that_never_diverged_has_the_exact_bound_of_no_event():
    """Of 40 prompts none diverged: at 97.5 % fewer than 1 - 0.025 ** (1 / 40) of all do, at worst at once."""
    found = score(items(fdt=[64] * 40, positions=[64] * 40), metrics.describe("fdt"))
    assert found["low"] == pytest.approx(64 * 0.025 ** (1 / 40), rel=0.005)
    assert found["high"] == 64


def test_a_gap_of_a_distance_to_dense_never_passes_dense():
    rng = np.random.default_rng(2)
    dense = items(fdt=np.full(40, 64), sdt=np.zeros(40), positions=np.full(40, 64))
    fdt = diverging(rng, 40, 0.1)
    variant = items(fdt=fdt, sdt=(64 - fdt) / 64 * 0.3, positions=np.full(40, 64))
    later, differing = (difference(dense, variant, metrics.describe(name)) for name in ("fdt", "sdt"))
    assert later.low < later.gap < later.high <= 0
    assert 0 <= differing.low < differing.gap < differing.high
    assert later.verdict == differing.verdict == ""


def test_the_kind_follows_from_the_metric_and_not_from_the_values():
    zeros, tiny = np.zeros(24), np.full(24, 1e-4)
    rouge, kl, acc = (metrics.describe(name) for name in ("rouge2", "kl_mean", "acc"))
    flat, near = (score(items(rouge2=column), rouge) for column in (zeros, tiny))
    assert (near["low"], near["high"]) == pytest.approx((flat["low"], flat["high"]), abs=2e-4)  # no jump
    assert flat["high"] == pytest.approx(stats.beta.ppf(0.975, 1, 24), rel=0.02)
    assert score(items(kl_mean=zeros), kl)["high"] == 0  # of dense to itself: no end is known, nothing varied
    right = score(items(acc=np.ones(24)), acc)
    theirs = stats.binomtest(24, 24).proportion_ci(method="wilson")
    assert (right["low"], right["high"]) == pytest.approx((theirs.low, theirs.high))
    assert score(items(**{"acc@strict": np.ones(24)}), metrics.describe("acc@strict"))["low"] == right["low"]


@pytest.mark.parametrize("support", [BINARY, SHARE, GRADE, COUNT, REAL])
def test_an_interval_holds_its_score(support):
    for values in ([0.1] * 7, [0.3] * 40, [1.0] * 12, [0.0] * 12, [1 / 3] * 24):
        low, high, _ = interval(values, support=support)
        assert low <= np.mean(values) <= high


def test_bounded_scores_with_a_rare_value_are_covered():
    rng = np.random.default_rng(4)
    inside = widths = 0.0
    for _ in range(TRIALS):
        values = np.where(rng.random(60) < 0.03, 0.0, rng.beta(30, 2, 60))
        low, high, _ = interval(values, support=SHARE, resamples=2000)
        inside += low <= 0.97 * 30 / 32 <= high
        widths += high - low
    assert inside / TRIALS >= 0.95 - SLACK
    assert widths / TRIALS < 0.2


def test_a_known_name_for_other_values_is_read_as_what_they_are():
    halves = np.array([0.5, 1.0, 0.0, 0.5] * 6)
    assert Support(0.0, 1.0, binary=True).of(halves) == SHARE
    assert SHARE.of(halves * 100) == REAL
    assert SHARE.of(halves) is SHARE
    assert paired(halves, halves, support=BINARY).test == "bootstrap"
    assert interval(halves * 100, support=SHARE).high > 1


def windows(rng, documents, each, between, within):
    """Losses of windows: a document's own level, and skewed windows around it."""
    level = rng.normal(0, between, documents).repeat(each)
    return 3.0 + level + within * (rng.exponential(1, documents * each) - 1)


def test_eight_skewed_windows_are_covered():
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(TRIALS):
        low, high, _ = interval(windows(rng, 8, 1, 0, 0.5), "exp_mean", resamples=2000)
        inside += low <= math.exp(3.0) <= high
    assert inside / TRIALS >= 0.92  # Student's interval: 0.88


def test_windows_of_one_document_are_no_items_of_their_own():
    rng = np.random.default_rng(6)
    documents = np.arange(12.0).repeat(6)
    whole = alone = 0
    for _ in range(TRIALS):
        nll = windows(rng, 12, 6, 0.3, 0.2)
        low, high, _ = interval(nll, "exp_mean", units=documents, resamples=1000)
        whole += low <= math.exp(3.0) <= high
        low, high, _ = interval(nll, "exp_mean", resamples=1000)
        alone += low <= math.exp(3.0) <= high
    assert whole / TRIALS >= 0.92
    assert alone / TRIALS <= 0.75
    found = score(items(nll=nll, document=documents), metrics.describe("perplexity"))
    assert (found["n"], found["units"]) == (72, 12)


def test_perplexity_of_unequal_documents_is_still_the_mean_over_all_windows():
    nll, documents = np.array([3.0, 3.2, 2.0, 5.0, 4.0, 3.0, 2.5]), np.array([0, 0, 0, 1, 2, 3, 3.0])
    found = score(items(nll=nll, document=documents), metrics.describe("perplexity"))
    assert found["value"] == pytest.approx(math.exp(nll.mean()))
    assert found["low"] < found["value"] < found["high"]
    weights = np.bincount(documents.astype(int))  # the ratio's standard error, by hand
    sums = np.bincount(documents.astype(int), weights=nll)
    residual = sums - nll.mean() * weights
    stderr = math.sqrt((residual**2).mean() / 3) / weights.mean()
    student = stats.t.ppf(0.975, 3)
    assert math.log(found["high"]) == pytest.approx(nll.mean() + student * stderr)
    one = interval(nll, "exp_mean", units=np.zeros(7))
    assert math.isnan(one.low)  # one document tells nothing of others


def test_two_perplexities_of_the_same_documents_keep_their_five_percent():
    rng = np.random.default_rng(7)
    documents, matching, rejected = np.arange(16.0).repeat(4), 0, 0
    for _ in range(TRIALS):
        dense = windows(rng, 16, 4, 0.3, 0.2)
        shift = 0.03 * rng.normal(0, 1, 16).repeat(4) + 0.02 * (rng.exponential(1, 64) - 1)
        found = paired(
            dense, dense + math.log(1.05) + shift, "exp_mean", units=documents, how=How(resamples=1000)
        )
        matching += found.verdict == "matching"
        rejected += (
            paired(dense, dense + shift, "exp_mean", units=documents, how=How(resamples=1000)).p < 0.05
        )
    assert found.units == 16
    assert matching / TRIALS <= 0.05 + SLACK
    assert rejected / TRIALS <= 0.05 + SLACK


@pytest.mark.parametrize("support", [BINARY, SHARE])
def test_a_change_never_passes_minus_one_hundred_percent(support):
    rng = np.random.default_rng(8)
    for n in (6, 24, 96):
        dense = (np.arange(n) < max(1, n // 12)).astype(float)
        found = paired(dense, np.zeros(n), support=support)
        assert found.relative_low == -1
        assert found.relative_high > -1
        variant = np.where(rng.random(n) < 0.5, 0, dense)
        found = paired(dense, variant, support=support)
        assert -1 <= found.relative_low <= found.gap / dense.mean() <= found.relative_high
    nll = rng.normal(3, 1, 8)
    assert paired(nll + 4, nll, "exp_mean").relative_low > -1
    few = paired(rng.poisson(0.5, 30) + 1.0, rng.poisson(0.01, 30), support=COUNT)
    assert few.relative_low >= -1


def test_the_change_as_a_share_of_dense_is_covered():
    rng = np.random.default_rng(9)
    inside = 0
    for _ in range(TRIALS):
        dense = (rng.random(100) < 0.5).astype(float)
        variant = np.where(rng.random(100) < 0.2, 0, dense)
        found = paired(dense, variant, support=BINARY, how=How(resamples=2000))
        inside += found.relative_low <= -0.2 <= found.relative_high
    assert inside / TRIALS >= 0.95 - SLACK
