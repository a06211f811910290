"""Stopping early keeps the error that it promises, and says at all items what the fixed rule says."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy import stats

from kick.stats import equivalence, flips, spending
from kick.stats.metrics import describe
from kick.stats.sequential import Design, Rule, decide, looks, replay
from kick.stats.studies import Layer, Population, simulate

ACC, RULE = describe("acc"), Rule()
RUNS, TOLERANCE = 8000, 0.005


def uniform(dense):
    return Design(np.asarray(dense, dtype=float), np.zeros(len(dense), dtype=np.int64))


# --------------------------------------------------------------------------------------------- spending


def test_bounds_of_256_items_are_the_known_ones():
    at = looks(256, RULE)
    assert at == (24, 43, 78, 142, 256)
    assert spending.bounds(tuple(n / 256 for n in at), 0.05) == pytest.approx(
        (2.95, 2.89, 2.63, 2.27, 1.73), abs=0.006
    )


def test_the_error_of_two_looks_is_that_of_the_bivariate_normal():
    early, late = spending.bounds((0.4, 1.0), 0.05)
    assert stats.norm.sf(early) == pytest.approx(0.05 * (1 - math.exp(0.8)) / (1 - math.exp(2)))
    both = stats.multivariate_normal([0, 0], [[1, math.sqrt(0.4)], [math.sqrt(0.4), 1]])
    assert 1 - both.cdf([early, late]) == pytest.approx(0.05, abs=1e-5)


def test_one_look_spends_all():
    assert spending.levels((1.0,), 0.05) == pytest.approx((0.05,))


# ------------------------------------------------------------------------------------------ exact bounds


@pytest.mark.parametrize("share", [0.95, 1.0, 1.05])
def test_with_all_items_asked_the_chances_are_those_of_the_fixed_rule(share):
    rows = [(r, w, lost, won) for r, w in ((59, 0), (18, 78), (91, 5), (300, 700))
            for lost, won in ((0, 0), (3, 0), (0, 3), (9, 4), (18, 0)) if won <= w]  # fmt: skip
    right, wrong, lost, won = (np.array(column, dtype=float)[:, None] for column in zip(*rows, strict=True))
    found = flips.Asked(right, wrong, right, wrong, lost, won)
    for name in ("above", "below"):
        exact = [
            getattr(equivalence, name)(equivalence.Outcomes(x, y, r - x, w - y), share) for r, w, x, y in rows
        ]
        assert getattr(flips, name)(found, share) == pytest.approx(exact, rel=0.02, abs=1e-5)


def test_a_chance_with_dense_known_on_more_items_is_that_of_drawn_gammas():
    """60 of 200 items asked: right 120, of 36 asked 2 lost; wrong 80, of 24 asked 3 won."""
    found = flips.Asked(*(np.array([value], dtype=float) for value in (120, 80, 36, 24, 2, 3)))
    rng = np.random.default_rng(0)
    theta, lost, won = (rng.beta(a, b, 2_000_000) for a, b in ((121, 80), (3, 34), (3, 21)))
    for share in (0.95, 1.05):
        drawn = (theta * (1 - lost) + (1 - theta) * won < share * theta).mean()
        assert float(flips.above(found, share)) == pytest.approx(drawn, rel=0.01)


# ------------------------------------------------------------------------------------------------- error


GRID = [
    *((96, 0.6, 0.0), (96, 0.95, 0.0), (96, 1.0, 0.0)),
    *((256, 0.3, 0.02), (256, 0.6, 0.0), (256, 0.95, 0.0), (256, 1.0, 0.0)),
    *((1000, 0.3, 0.0), (1000, 0.6, 0.02), (1000, 1.0, 0.0)),
    (3610, 0.95, 0.0),
]


@pytest.mark.parametrize(("total", "right", "other"), GRID)
def test_a_change_at_the_margin_is_misjudged_in_at_most_five_percent(total, right, other):
    at_the_edges(total, right, other, Rule(futility=0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("total", "right", "other"),
    product((59, 64, 96, 132, 256, 512, 1000, 3610, 14042), (0.3, 0.54, 0.6, 0.8, 0.95, 1.0), (0, 0.02, 0.1)),
)
def test_a_change_at_the_margin_is_misjudged_in_at_most_five_percent_everywhere(total, right, other):
    at_the_edges(total, right, other, Rule(futility=0))


def at_the_edges(total, right, other, rule):
    for change, beyond in ((-rule.margin, "lower"), (rule.margin, "higher")):
        if not (other + (change > 0) * rule.margin * right) <= 1 - right + 1e-12:
            continue
        if not (other + (change < 0) * rule.margin * right) <= right:
            continue
        studies = simulate(Population.changed(right, change, other), total, rule, RUNS)
        assert studies.share("matching") <= 0.05 + TOLERANCE
        assert studies.share(beyond) <= 0.05 + TOLERANCE


@pytest.mark.parametrize(
    ("total", "hard"), [(1000, 1.0), (1000, 0.0), pytest.param(14042, 0.5, marks=pytest.mark.slow)]
)
def test_strata_asked_at_other_rates_keep_the_error(total, hard):
    """A quarter of the items is asked four times as often; a share `hard` of the loss is there."""
    loss = 0.05 * 0.6
    layers = [
        Layer(share, rate, Population(0.6, part * loss / share / 0.6))
        for share, rate, part in ((0.25, 4, hard), (0.75, 1, 1 - hard))
    ]
    studies = simulate(layers, total, Rule(futility=0), RUNS // 2)
    assert studies.share("matching") <= 0.05 + 2 * TOLERANCE
    assert studies.share("lower") <= 0.05 + 2 * TOLERANCE


def test_strata_that_hold_the_flips_save_items_if_these_are_many():
    """All flips among a quarter of the items. (Of few flips the bound is that of what was not seen.)"""
    truth = [Population.changed(0.6, -0.06, 0.15), Population(0.6, 0.0)]
    asked = []
    for rates in ((1, 1), (3, 1)):
        layers = [Layer(s, r, t) for s, r, t in zip((0.25, 0.75), rates, truth, strict=True)]
        asked.append(simulate(layers, 14042, RULE, 300).asked.mean())
    assert asked[1] < 0.9 * asked[0]


# ----------------------------------------------------------------------------------------------- replay


def test_up_to_256_items_a_cell_that_ran_to_the_end_has_the_fixed_rules_verdict():
    studies = simulate(Population.changed(0.6, -0.12, 0.02), 256, replace(RULE, futility=0), 3000)
    to_the_end = studies.asked == 256
    assert 0.2 < to_the_end.mean() < 1
    assert (studies.verdict[to_the_end] == studies.fixed[to_the_end]).all()


def test_a_dead_variant_is_worse_at_the_first_look():
    dense = np.tile([1.0, 0.0, 1.0], 400)
    decision = replay(uniform(dense), np.zeros(1200), ACC, RULE)
    assert (decision.verdict, decision.reason, decision.asked, decision.of) == ("worse", "decided", 24, 1200)
    assert decision.score == pytest.approx(0.0)
    assert decision.gap == pytest.approx(-2 / 3)
    assert decision.low <= decision.gap <= decision.high < 0


def test_equal_answers_match_once_enough_of_denses_right_items_are_asked():
    """Without a flip the exact bound needs (1 - 5 %) ** right <= the look's level."""
    dense = np.tile([1.0, 1.0, 0.0, 1.0, 0.0], 200)
    decision = replay(uniform(dense), dense, ACC, RULE)
    at = looks(1000, RULE)
    levels = spending.levels(tuple(n / 1000 for n in at), 0.05)
    first = next(n for n, level in zip(at, levels, strict=True) if 0.95 ** dense[:n].sum() <= level)
    assert (decision.verdict, decision.asked) == ("matching", first)


def test_replay_is_the_first_decision_that_is_done():
    rng = np.random.default_rng(3)
    dense = (rng.random(500) < 0.6).astype(float)
    values = np.where(rng.random(500) < 0.15, 1 - dense, dense)
    design, decision = uniform(dense), replay(uniform(dense), values, ACC, RULE)
    for n in looks(500, RULE):
        here = decide(design, values[:n], ACC, RULE)
        assert here.done == (n >= decision.asked) or n > decision.asked
        if here.done:
            break
    assert here == decision


def test_a_score_is_denses_mean_over_all_items_plus_the_post_stratified_gap():
    dense = np.array([1.0, 0.0] * 50 + [1.0] * 100)
    values = dense[:100].copy()
    values[:20:2] = 0  # 10 of 50 right items lost
    decision = decide(uniform(dense), values, ACC, replace(RULE, looks=(100,), futility=0))
    assert decision.gap == pytest.approx(-0.75 * 0.2)
    assert decision.score == pytest.approx(0.75 * 0.8)


def test_strata_weigh_their_items_by_their_size():
    """Of 40 hard items all were asked, 8 lost; of 160 easy ones 40, none lost: 8 of 200."""
    dense, strata = np.ones(200), np.array([0] * 40 + [1] * 160)
    values = np.ones(80)
    values[:8] = 0
    decision = decide(Design(dense, strata), values, ACC, replace(RULE, futility=0, looks=(80,)))
    assert decision.gap == pytest.approx(-8 / 200)
    plain = decide(uniform(dense), values, ACC, replace(RULE, futility=0, looks=(80,)))
    assert plain.gap == pytest.approx(-8 / 80)


def test_a_precision_is_reached_before_a_cell_ends():
    dense = np.tile([1.0, 0.0, 1.0], 400)
    decision = replay(uniform(dense), np.zeros(1200), ACC, replace(RULE, precision=0.04))
    assert decision.verdict == "worse"
    assert 24 < decision.asked < 1200
    assert (decision.high - decision.low) / 2 <= 0.04


def test_a_metric_without_a_rule_is_asked_in_full():
    decision = replay(uniform(np.ones(100)), np.ones(50), describe("kl_mean"), RULE)
    assert not decision.done
    assert decision.reason == "no rule"


def test_a_dense_model_that_is_never_right_has_no_verdict():
    assert decide(uniform(np.zeros(100)), np.zeros(100), ACC, RULE).verdict == ""
