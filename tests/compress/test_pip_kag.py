"""PIP-KAG: the share of active neurons by hand, the band, and blocks that do what an MLP of zeros does."""

import pytest
import torch
from torch import nn

from kick.compress import canonical, check_saved, compress
from kick.compress.context import Calibration
from kick.compress.methods.pip_kag import band, inhibition
from kick.errors import CellFailed, KickError
from kick.model import blocks
from tests.support.architectures import sequences, tiny

STEP = canonical("pip-kag", {"mlps": 2})


def by_hand(model, ids, answer):
    """The share of each block's gate neurons whose summed activation over the last tokens is positive."""
    inputs = {}
    hooks = [
        block.mlp.register_forward_pre_hook(lambda _, args, index=index: inputs.update({index: args[0][0]}))
        for index, block in enumerate(blocks(model))
    ]
    with torch.no_grad():
        model(ids)
        for hook in hooks:
            hook.remove()
        gates = [
            nn.functional.silu(inputs[i] @ b.mlp.gate_proj.weight.T) for i, b in enumerate(blocks(model))
        ]
    return torch.tensor([float((one[-answer:].sum(0) > 0).float().mean()) for one in gates])


def test_inhibition_is_the_share_of_neurons_that_context_quietens():
    model, texts = tiny("llama"), sequences(3, 22)
    expected = sum(by_hand(model, ids[:, 11:], 5) - by_hand(model, ids, 5) for ids in texts) / len(texts)
    found = inhibition(model, Calibration(tuple(texts)))
    assert torch.allclose(torch.tensor(found), expected, atol=1e-6)
    assert len({round(one, 6) for one in found}) > 1


def test_the_band_has_the_largest_sum():
    drops = [0.5, -0.4, 0.2, 0.3, -0.1]
    assert list(band(drops, 1)) == [0]
    assert list(band(drops, 2)) == [2, 3]
    assert list(band([0.0, 0.0, 0.0], 2)) == [0, 1]


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_it_computes_what_mlps_of_zeros_do(name):
    model, zeroed, ids = tiny(name), tiny(name), sequences(1, 16, seed=5)[0]
    report = compress(model, [STEP], sequences())
    gone = next(one["layers"] for one in report["notes"] if one["kind"] == "removed MLPs")
    drops = next(one["values"] for one in report["notes"] if one["kind"].startswith("inhibition"))
    assert gone == list(band(drops, 2))
    for index in gone:
        blocks(zeroed)[index].mlp.down_proj.weight.data.zero_()
    with torch.no_grad():
        assert torch.equal(model(ids).logits, zeroed(ids).logits)
    matrices = [p.numel() for b in blocks(tiny(name)) for p in b.mlp.parameters()]
    removed = report["steps"][0]["removed"]
    assert removed["weights"] == sum(matrices) * 2 // 3
    assert report["steps"][0]["passes"] == {"forward": 2 * len(sequences()), "backward": 0}


def test_a_later_step_prunes_what_is_left():
    model = tiny("llama")
    report = compress(model, [STEP, canonical("wanda", {"sparsity": 0.5})], sequences())
    assert report["steps"][1]["sparsity"] == 0.5


def test_what_cannot_be_done_is_refused():
    with pytest.raises(KickError, match="cannot remove 3 of 3 MLPs"):
        compress(tiny("llama"), [canonical("pip-kag", {"mlps": 3})], sequences())
    with pytest.raises(KickError, match="blocks without an `mlp`"):
        compress(tiny("llama"), [STEP, STEP], sequences())
    with pytest.raises(KickError, match="would not be a checkpoint"):
        check_saved(tiny("llama"), [STEP])
    with pytest.raises(CellFailed, match="at least 4"):
        compress(tiny("llama"), [STEP], sequences(1, 3))
    broken = tiny("llama")
    blocks(broken)[1].mlp.gate_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(CellFailed, match="block 1 has NaN"):
        compress(broken, [STEP], sequences())
