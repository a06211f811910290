"""The allocation: the rule as it is written down, and the sum to the last weight."""

import random

import pytest

from kick.compress.sparsity import Sparsity
from kick.errors import KickError
from kick.study.allocation import Pruned, guided, quantiles, shares, uniform

SHAPES = [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)]


def parts(shapes=SHAPES, layers=6, seed=0):
    generator = random.Random(seed)
    return [
        Pruned(f"{layer}.{place}", *shape, fdt=generator.uniform(0, 48))
        for layer in range(layers)
        for place, shape in enumerate(shapes)
    ]


@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize(
    ("shapes", "sparsity", "spread"),
    [
        (SHAPES, 0.75, 0.1),
        (SHAPES, 0.33, 0.2),
        (SHAPES, 0.05, 0.05),
        (SHAPES, 0.9, 0.1),
        ([(7, 12), (5, 30), (11, 13)], 0.75, 0.1),
        ([(7, 12), (5, 30), (11, 13)], 0.33, 0.2),
    ],
)
def test_the_sum_is_that_of_a_uniform_share_to_the_weight(shapes, sparsity, spread, by_row):
    for seed in range(3):
        own = parts(shapes, seed=seed)
        even, counts = uniform(own, sparsity, by_row), guided(own, sparsity, spread, by_row)
        assert sum(counts.values()) == sum(even.values())
        given = shares(counts, own)
        for part in own:
            level = Sparsity(given[part.name])
            by_hand = part.rows * level.count(part.columns) if by_row else level.count(part.size)
            assert by_hand == counts[part.name]
            assert 0 <= counts[part.name] < part.size


def test_shares_lie_where_the_rule_puts_them():
    own = parts(layers=30)
    counts, places = guided(own, 0.75, 0.1, True), quantiles(own)
    for part in own:
        assert counts[part.name] / part.size == pytest.approx(0.75 + 0.1 * places[part.name], abs=2 / 576)
    assert sum(places[part.name] * part.size for part in own) == pytest.approx(0, abs=1e-6)


def test_the_earliest_divergence_keeps_most_and_ties_go_by_kl_then_name():
    own = [
        Pruned("b", 4, 8, fdt=9.0, kl=0.5),
        Pruned("a", 4, 8, fdt=9.0, kl=0.5),
        Pruned("late", 4, 8, fdt=40.0),
        Pruned("early", 4, 8, fdt=1.0),
        Pruned("hurt", 4, 8, fdt=9.0, kl=0.9),
    ]
    places = quantiles(own)
    assert sorted(places, key=places.get) == ["early", "hurt", "a", "b", "late"]
    counts = guided(own, 0.5, 0.4, True)
    assert counts["early"] < counts["hurt"] <= counts["a"] <= counts["b"] < counts["late"]
    assert guided(list(reversed(own)), 0.5, 0.4, True) == counts


@pytest.mark.parametrize(("sparsity", "spread"), [(0.75, 0.0), (0.75, 0.3), (0.2, 0.21), (0.5, -0.1)])
def test_shares_beyond_0_and_1_are_refused(sparsity, spread):
    with pytest.raises(KickError, match="spread: got"):
        guided(parts(), sparsity, spread, True)
