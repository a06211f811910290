"""Packed weights that take the place of a block's own, and products with slices of a head."""

import torch
from torch import nn

from kick.model import packed
from kick.model.packed import product, used_up

X = torch.randn(7, 24, generator=torch.Generator().manual_seed(0))


def seeded(*between):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(24, 40), *between, nn.Linear(40, 16)).requires_grad_(False)


def test_a_block_computes_with_packed_weights_and_holds_no_others():
    block = seeded(nn.ReLU())
    before = [one.weight.data.clone() for one in (block[0], block[2])]
    wanted = block(X)
    with torch.inference_mode(), used_up(block):
        torch.testing.assert_close(block(X), wanted)
        assert all(one.weight.untyped_storage().nbytes() == 4 for one in (block[0], block[2]))
        torch.testing.assert_close(block(X), wanted)
    for one, weight in zip((block[0], block[2]), before, strict=True):
        one.weight.data = 2 * weight
    torch.testing.assert_close(block[0](X), nn.functional.linear(X, 2 * before[0], block[0].bias))


def test_a_weight_is_laid_out_once_in_nested_contexts(monkeypatch):
    count, lay = [], packed.laid_out
    monkeypatch.setattr(packed, "laid_out", lambda weight: count.append(1) or lay(weight))
    block = seeded()
    with torch.inference_mode(), used_up(block):
        with packed.PackedLinears(block).on():
            first = block(X)
        assert torch.equal(block(X), first)
    assert len(count) == 2


def test_a_product_is_that_of_the_weight():
    weight = torch.randn(30, 24, generator=torch.Generator().manual_seed(1))
    for one in (weight, weight.bfloat16()):
        given = X.to(one.dtype)
        torch.testing.assert_close(product(one)(given), nn.functional.linear(given, one))
