"""Orders of the calibration sequences: the same ones in another order, and whose results can show it."""

import math
from functools import partial

import pytest
import torch

from kick.compress import compress
from kick.compress.calibrate.corpus import reordered, sequences
from kick.compress.calibrate.statistics import AbsMax, Statistic
from kick.compress.method import methods
from kick.model import load, resolve
from kick.records import CalibrationSpec
from tests.compress.test_every_method import recipe
from tests.compress.test_ssm_pruning import mamba2
from tests.support.architectures import sequences as tokens
from tests.support.architectures import tiny

MODELS = {  # of methods that serve one kind of model alone
    "moe-pruner": partial(tiny, "mixtral"),
    "expert-usage": partial(tiny, "mixtral"),
    "ssm-pruning": mamba2,
}


def test_an_order_gives_the_same_sequences_in_another_order():
    tokenizer = load(resolve("smoke"))[1]
    specs = [CalibrationSpec("kick_mini_calibration", 6, 32, order=order) for order in range(4)]
    found = [[tuple(ids[0].tolist()) for ids in sequences(spec, tokenizer)] for spec in specs]
    assert len(set(found[0])) == 6
    assert all(sorted(one) == sorted(found[0]) for one in found)
    assert len(set(map(tuple, found))) == 4


@pytest.mark.parametrize("count", [2, 3, 16])
def test_all_orders_differ_as_far_as_there_are_any(count):
    many = min(math.factorial(count), 50)
    found = {tuple(reordered(count, order)) for order in range(many)}
    assert len(found) == many
    assert all(sorted(one) == list(range(count)) for one in found)
    assert reordered(count, 0) == list(range(count))


def test_there_are_no_more_orders_than_there_are():
    with pytest.raises(ValueError, match="2 sequences have no 2 other orders"):
        reordered(2, 2)


CALIBRATED = [name for name in methods if methods[name].calibrated and not methods[name].trains]


@pytest.mark.parametrize("name", CALIBRATED)
def test_methods_that_sum_over_samples_block_by_block_are_marked(name, monkeypatch):
    model = MODELS.get(name, partial(tiny, "llama"))()
    seen, add = set(), Statistic.add
    monkeypatch.setattr(Statistic, "add", lambda self, x: (seen.add(type(self)), add(self, x))[1])
    compress(model, recipe(name), tokens())
    assert bool(seen - {AbsMax}) == methods[name].feeds_forward  # a maximum is the same in every order


def test_methods_without_calibration_are_not_marked():
    assert not [name for name in methods if methods[name].feeds_forward and not methods[name].calibrated]


def test_a_maximum_is_the_same_in_every_order():
    inputs = [torch.randn(5, 7) for _ in range(4)]
    first, second = AbsMax(7), AbsMax(7)
    for one, other in zip(inputs, reversed(inputs), strict=True):
        first.add(one)
        second.add(other)
    assert torch.equal(first.value, second.value)
