"""OWL's shares against the published rule written out, and what they add up to."""

import numpy as np
import pytest
import torch

from kick.compress import canonical, check, compress
from kick.compress.context import Calibration
from kick.compress.methods.owl import spread
from kick.errors import CellFailed, KickError
from kick.model import blocks, linears
from tests.support.architectures import sequences, tiny


def published(outliers, share, width):
    """The published rule: shares of outliers stretched to 0 .. 2 x width, their mean moved to what stays."""
    ratio = np.asarray(outliers)
    ratio = (ratio - ratio.min()) * (1 / (ratio.max() - ratio.min()) * width * 2)
    return 1 - (ratio - ratio.mean() + (1 - share))


def test_shares_are_the_published_ones_where_blocks_are_of_one_size():
    outliers = [0.03, 0.01, 0.02, 0.05]
    found = spread(outliers, [100] * 4, 0.7, 0.08)
    assert found == pytest.approx(published(outliers, 0.7, 0.08))
    assert found.index(min(found)) == 3  # most outliers, least pruned
    assert max(found) - min(found) == pytest.approx(0.16)


def test_blocks_of_other_sizes_count_by_their_weights():
    sizes = [100, 300, 50]
    found = spread([0.1, 0.3, 0.2], sizes, 0.6, 0.05)
    assert np.average(found, weights=sizes) == pytest.approx(0.6)


def test_equal_blocks_are_pruned_equally():
    assert spread([0.02, 0.02], [10, 20], 0.5, 0.08) == [0.5, 0.5]


def test_each_block_loses_its_share_and_all_together_what_was_asked():
    model, calibration = tiny("llama"), Calibration(tuple(sequences()))
    options = {"sparsity": 0.5, "outlier": 2.0, "spread": 0.1}
    report = compress(model, [canonical("owl", options)], calibration)
    shares, left = [], 0
    for index, block in enumerate(blocks(model)):
        masks = [calibration.masks[f"model.layers.{index}.{one.name}"] for one in linears(block)]
        shares.append(sum(int((~m).sum()) for m in masks) / sum(m.numel() for m in masks))
        left += sum(m.shape[0] for m in masks)
    assert len(set(shares)) == len(shares) == 3
    assert max(shares) - min(shares) == pytest.approx(0.2, abs=1 / 32 + 1e-6)  # rows of 32 are floored
    lost = report["steps"][-1]["sparsity"]
    assert 0.5 - left / report["footprint"]["linear_parameters"] <= lost <= 0.5


def test_without_a_spread_it_is_wanda():
    found, wanted = tiny("llama"), tiny("llama")
    compress(found, [canonical("owl", {"sparsity": 0.5, "spread": 0})], sequences())
    compress(wanted, [canonical("wanda", {"sparsity": 0.5})], sequences())
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), wanted.parameters(), strict=True))


def test_what_cannot_be_spread_is_refused():
    with pytest.raises(KickError, match="choose wanda"):
        check(tiny("llama"), [canonical("owl", {"sparsity": "2:4"})])
    step = canonical("owl", {"sparsity": 0.95, "outlier": 2.0, "spread": 0.3})
    with pytest.raises(CellFailed, match="smaller spread"):
        compress(tiny("llama"), [step], sequences())
