"""Levels, and the table of methods: what is accepted, refused, and written out."""

import math

import pytest
import torch

from kick.compress import canonical, check, describe
from kick.compress.grid import Grid
from kick.compress.method import methods
from kick.compress.sparsity import Sparsity, mask
from kick.errors import KickError
from kick.records import Step
from kick.registry import UnknownName
from tests.support.architectures import tiny


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("2:5:4", "two whole numbers"),
        ("a:4", "two whole numbers"),
        ("4:2", "0 < n < m"),
        ("0:4", "0 < n < m"),
        ("4:4", "0 < n < m"),
        (124, 'did you mean "2:4" in quotes'),
        (248, 'did you mean "4:8" in quotes'),
        (62, 'did you mean "1:2" in quotes'),
        (1, "below 1"),
        (1.0, "below 1"),
        (50, "did you mean 0.5"),
        (-0.1, "at least 0"),
        (True, "invalid sparsity"),
        (None, "invalid sparsity"),
        ("half", "invalid sparsity"),
        (float("nan"), "out of range"),
    ],
)
def test_levels_that_are_refused(value, word):
    with pytest.raises(ValueError, match=word):
        Sparsity.parse(value)


def test_levels_are_written_as_they_were():
    assert Sparsity.parse("2:4").value == "2:4"
    assert Sparsity.parse("0.5").value == 0.5
    assert Sparsity.parse(0).value == 0.0
    assert str(Sparsity.parse("4:8")) == "4:8"


@pytest.mark.parametrize("size", [1, 7, 100, 1536])
def test_count_takes_the_share_as_a_decimal(size):
    assert Sparsity.parse(0.29).count(size) == size * 29 // 100  # 0.29 * 100 is 28.999999999999996
    assert Sparsity.parse("1:3").count(3 * size) == size


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("columns", [4, 48, 200])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.97])
def test_mask_is_exact_with_ties(rows, columns, share):
    saliency = torch.randint(0, 4, (rows, columns), generator=torch.Generator().manual_seed(0)).float()
    level = Sparsity.parse(share)
    kept = mask(saliency, level)
    assert ((~kept).sum(1) == level.count(columns)).all()
    order = saliency.argsort(dim=1, stable=True)[:, : level.count(columns)]
    assert (~kept).gather(1, order).all()  # of equals, the first
    whole = mask(saliency, level, "matrix")
    assert int((~whole).sum()) == level.count(rows * columns)


def test_the_authors_rule_prunes_one_more():
    saliency = torch.arange(10.0)[None]
    level = Sparsity.parse(0.5)
    assert int((~mask(saliency, level, "matrix")).sum()) == 5
    assert int((~mask(saliency, level, "matrix", "authors")).sum()) == 6


def test_half_precision_is_pruned_as_exactly():
    saliency = torch.rand(3, 64).to(torch.bfloat16)
    assert ((~mask(saliency, Sparsity.parse(0.5))).sum(1) == 32).all()


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("wanda", {}, "needs the option 'sparsity'"),
        ("wanda", {"sparsty": 0.5}, "did you mean 'sparsity'"),
        ("wanda", {"sparsity": 124}, "option 'sparsity'.*did you mean"),
        ("gptq", {"bits": 1}, "at least 2"),
        ("gptq", {"bits": 16}, "at most 8"),
        ("gptq", {"bits": 4.5}, "a whole number"),
        ("gptq", {"bits": "four"}, "a whole number"),
        ("gptq", {"bits": True}, "a whole number"),
        ("gptq", {"bits": float("inf")}, "a whole number"),
        ("gptq", {"bits": 4, "symmetric": "yes"}, "true or false"),
        ("gptq", {"bits": 4, "damping": -1}, "at least 0"),
        ("magnitude", {"sparsity": 0.5, "per": "column"}, "one of row, matrix, global"),
        ("magnitude", {"sparsity": 0.5, "per": 3}, "text"),
    ],
)
def test_options_that_are_refused(name, options, word):
    with pytest.raises(ValueError, match=word):
        canonical(name, options)


def test_unknown_method_names_its_neighbour():
    with pytest.raises(UnknownName, match="did you mean 'wanda'"):
        canonical("wandaa", {})


def test_defaults_are_written_out():
    step = canonical("gptq", {"bits": "4"})
    assert step == canonical("gptq", dict(step.options))
    assert step.options["bits"] == 4
    assert step.options["damping"] == 0.01
    assert set(step.options) == {item["name"] for item in describe("gptq")["options"]}
    assert canonical("gptq", {"bits": 4.0, "symmetric": "true"}).options["symmetric"] is True


@pytest.mark.parametrize("name", list(methods))
def test_every_method_says_what_it_is(name):
    row = describe(name)
    assert row["title"]
    assert row["paper"]
    assert row["doc"]
    assert all(item["help"] for item in row["options"])
    assert ("calibration" in row["needs"]) or "gradients" not in row["needs"]


def test_what_does_not_fit_is_refused_before_anything_runs():
    model = tiny("llama")
    with pytest.raises(KickError, match="group_size 24 does not divide 32 inputs; 32, 16, 8 would"):
        check(model, [canonical("rtn", {"bits": 4, "group_size": 24})])
    with pytest.raises(KickError, match="group_size 0"):
        check(model, [canonical("gptq", {"bits": 4, "group_size": 0})])
    with pytest.raises(KickError, match="multiple of 5"):
        check(model, [canonical("wanda", {"sparsity": "1:5"})])
    with pytest.raises(KickError, match="at most 2"):
        check(model, [canonical("last-n", {"layers": 3})])
    assert isinstance(canonical("wanda", {"sparsity": 0.5}), Step)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zero_and_constant_groups_are_on_the_grid(bits, symmetric):
    weight = torch.cat([torch.zeros(1, 8), torch.full((1, 8), -0.3), torch.rand(1, 8)])
    grid = Grid(bits, 8, symmetric)
    rounded = grid.round(weight, grid.fit(weight))
    assert torch.equal(rounded[0], weight[0])
    assert torch.isfinite(rounded).all()
    assert (rounded - weight).abs().max() <= 2 * 0.999 / grid.top
    assert math.isclose(float(rounded[1, 0]), -0.3, abs_tol=0.6 / grid.top)


def test_searching_the_span_lowers_the_error():
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0)).pow(3)
    grid = Grid(3, 32)
    plain, searched = (grid.round(weight, grid.fit(weight, shrink)) for shrink in (False, True))
    assert (searched - weight).abs().pow(2.4).sum() < (plain - weight).abs().pow(2.4).sum()


def test_a_method_that_is_written_wrong_says_what_is_wrong():
    """At its registration: it would else end commands that have nothing to do with it."""
    from dataclasses import dataclass

    from kick.compress.method import method

    about = {"title": "Mine", "paper": "none"}

    class Plain:
        pass

    @dataclass(frozen=True)
    class Bare:
        share: float = 0.5

    @dataclass(frozen=True)
    class Empty:
        pass

    wrong = [(Plain, "prune", "frozen dataclass"), (Bare, "prune", "'share' must be made by option")]
    for cls, kind, words in [*wrong, (Empty, "prunee", "'prunee'; expected one of")]:
        with pytest.raises(TypeError, match=words):
            method("mine", kind=kind, **about)(cls)
    assert "mine" not in methods
