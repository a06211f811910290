"""Adapt-Pruner's shares against the authors' numbers, and what they add up to."""

from itertools import pairwise

import pytest
import torch

from kick.compress import canonical, compress
from kick.compress.context import Calibration
from kick.compress.methods.adapt_pruner import _measured, moved, raised, relative
from kick.compress.methods.shortgpt import block_influence
from kick.model import blocks
from tests.support.architectures import sequences, tiny
from tests.support.golden import seeds


def importance(golden):
    states = [golden[f"hidden.{index}"].double() for index in range(7)]
    return relative(torch.stack([torch.cosine_similarity(a, b, dim=-1).mean() for a, b in pairwise(states)]))


def test_importance_and_shares_are_the_authors():
    golden = seeds("adapt_pruner")
    matter = importance(golden)
    assert matter == pytest.approx(golden["normalised_importance"].tolist(), abs=1e-6)
    shares = [0.0] * 6
    for wanted in golden["sparsity_after_steps_1_to_5"]:
        shares = raised(shares, matter, 0.5 / 50, 0.02)
        assert shares == pytest.approx(wanted.tolist(), abs=1e-6)


def test_without_amplitude_all_shares_are_equal():
    matter, shares = importance(seeds("adapt_pruner")), [0.0] * 6
    for step in range(1, 11):
        shares = moved(shares, raised(shares, matter, 0.05, 0.0), 0.05 * step)
    assert shares == pytest.approx([0.5] * 6)


@pytest.mark.parametrize("amplitude", [0.001, 0.02, 0.3])
def test_shares_average_what_was_asked_and_never_fall(amplitude):
    matter, shares = importance(seeds("adapt_pruner")), [0.0] * 6
    for step in range(1, 51):
        before = shares
        shares = moved(before, raised(before, matter, 0.01, amplitude), 0.01 * step)
        assert sum(shares) / 6 == pytest.approx(0.01 * step, abs=1e-9)
        assert all(new >= old for new, old in zip(shares, before, strict=True))
    assert max(shares) <= 0.99
    order = sorted(range(6), key=matter.__getitem__)
    assert [shares[index] for index in order] == sorted(shares, reverse=True)


def test_what_is_not_clipped_is_not_moved():
    assert moved([0.1, 0.1], [0.15, 0.25], 0.2) == [0.15, 0.25]


def test_blocks_are_measured_as_block_influence_is():
    model, calibration = tiny("llama"), Calibration(tuple(sequences()))
    wanted = relative(1 - block_influence(model, calibration))
    assert _measured(model, calibration)[1] == pytest.approx(wanted, abs=1e-5)


def test_the_share_is_met_and_the_passes_are_counted():
    model = tiny("llama")
    options = {"share": 0.3, "steps": 6, "amplitude": 0.05}
    report = compress(model, [canonical("adapt-pruner", options)], sequences())
    assert report["steps"][0]["removed"]["share"] == pytest.approx(0.3, abs=1.5 * 96 / 27648 + 1e-9)
    assert report["steps"][0]["passes"] == {"forward": 24, "backward": 24}
    assert len({block.mlp.up_proj.weight.shape for block in blocks(model)}) > 1


def test_a_single_step_without_amplitude_is_llm_pruner_with_the_same_widths():
    found, wanted = tiny("llama"), tiny("llama")
    options = {"share": 0.5, "steps": 1, "amplitude": 0.0}
    compress(found, [canonical("adapt-pruner", options)], sequences())
    compress(wanted, [canonical("llm-pruner", {"share": 0.5})], sequences())
    state = wanted.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in found.state_dict().items())
