"""`fit`: a share of the blocks' weights, met by channels where whole groups of heads do not fit."""

import pytest
import torch

from kick.compress import canonical, compress
from kick.model import blocks, linears
from tests.support.architectures import sequences, tiny

HALF_A_CHANNEL = 3 * 3 * 32 / 2  # of each of three blocks: rows of gate and up, a column of down


def size(model):
    return sum(linear.weight.numel() for block in blocks(model) for linear in linears(block))


@pytest.mark.parametrize("method", ["flap", "llm-pruner", "liar"])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_the_share_of_the_weights_is_met_to_half_a_channel(method, share):
    model, dense = tiny("llama"), size(tiny("llama"))
    report = compress(model, [canonical(method, {"share": share, "fit": True})], sequences(8))
    removed = report["steps"][0]["removed"]
    assert (removed["weights"], removed["of"]) == (dense - size(model), dense)
    assert abs(removed["share"] - share) * dense <= HALF_A_CHANNEL + 1e-6
    assert torch.isfinite(model(sequences(1)[0]).logits).all()


def test_below_a_group_of_heads_only_channels_go():
    model = tiny("llama")
    heads = model.config.num_key_value_heads
    compress(model, [canonical("flap", {"share": 0.9 / heads, "fit": True})], sequences())
    assert model.config.num_key_value_heads == heads
    assert model.config.intermediate_size < tiny("llama").config.intermediate_size


def test_a_repair_keeps_what_its_chooser_keeps():
    shapes = []
    for step in (("flap", {}), ("liar", {"repair": "none"})):
        model = tiny("llama")
        compress(model, [canonical(step[0], {"share": 0.3, "fit": True, **step[1]})], sequences(8))
        down = blocks(model)[0].mlp.down_proj
        shapes.append((down.weight.clone(), blocks(model)[0].self_attn.o_proj.weight.clone()))
    assert all(torch.equal(*pair) for pair in zip(*shapes, strict=True))
