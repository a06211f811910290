"""SliceGPT: with all channels it computes what it did, with fewer what its principal components hold."""

import pytest
import torch

from kick.compress import canonical, check_saved, compress
from kick.compress.context import Calibration
from kick.compress.methods.slicegpt import components, gram, slice_to, width
from kick.errors import CellFailed, KickError
from kick.model import blocks, linears
from tests.support.architectures import sequences, tiny


def error(model, dense):
    ids = sequences(1, 32, seed=3)[0]
    with torch.no_grad():
        return float((model(ids).logits - dense(ids).logits).abs().max())


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_with_all_channels_logits_are_the_same(name):
    model, dense = tiny(name), tiny(name)
    for one in (model, dense):
        for block in blocks(one):
            block.post_attention_layernorm.weight.mul_(torch.linspace(0.2, 3, 32))
    slice_to(model, Calibration(tuple(sequences())), 32)
    assert error(model, dense) < 1e-4 * max(1.0, float(dense(sequences(1, 32)[0]).logits.abs().max()))


def test_more_channels_are_nearer():
    errors = []
    for kept in (8, 20, 31):
        model = tiny("llama")
        slice_to(model, Calibration(tuple(sequences(8))), kept)
        errors.append(error(model, tiny("llama")))
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_the_share_is_of_all_weights_with_the_shortcuts_counted(share):
    model = tiny("llama")
    report = compress(model, [canonical("slicegpt", {"share": share})], sequences())
    removed = report["steps"][0]["removed"]
    left = sum(linear.weight.numel() for block in blocks(model) for linear in linears(block))
    assert removed["of"] - removed["weights"] == left
    kept = width(tiny("llama"), share)
    assert left == 3 * (9216 * kept // 32 + 2 * kept**2)
    assert share <= removed["share"] < share + 3 * (9216 / 32 + 4 * 32) / 27648
    (note,) = [note for note in report["notes"] if note["kind"] == "hidden channels"]
    assert (note["kept"], note["of"], note["outside_blocks"]) == (kept, 32, 2 * 32 * kept)


def test_components_keep_more_of_the_signal_than_any_others():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 16, generator=generator) @ torch.randn(16, 16, generator=generator)
    basis = components(gram([x]), 5)
    torch.testing.assert_close(basis.t() @ basis, torch.eye(5, dtype=torch.float64))
    values = torch.linalg.svdvals(x.double())
    lost = (x.double() - x.double() @ basis @ basis.t()).square().sum()
    torch.testing.assert_close(lost, values[5:].square().sum())


def test_hidden_states_of_few_dimensions_cost_nothing():
    """Embeddings and what blocks add lie in 12 of 32 dimensions: with 16 channels nothing is lost."""
    model, dense = tiny("llama"), tiny("llama")
    inside = torch.linalg.qr(torch.randn(32, 12, generator=torch.Generator().manual_seed(0))).Q
    for one in (model, dense):
        table = one.get_input_embeddings().weight
        table.copy_(table @ inside @ inside.t())
        for block in blocks(one):
            for linear in (block.self_attn.o_proj, block.mlp.down_proj):
                linear.weight.copy_(inside @ inside.t() @ linear.weight)
    slice_to(model, Calibration(tuple(sequences(8))), 16)
    assert error(model, dense) < 1e-3


def test_it_is_not_saved_and_needs_its_own_hidden_states():
    with pytest.raises(KickError, match="no config of transformers describes"):
        check_saved(tiny("llama"), [canonical("slicegpt", {"share": 0.3})])
    calibration = Calibration(tuple(sequences()), "dense")
    with pytest.raises(KickError, match="choose propagate compressed"):
        compress(tiny("llama"), [canonical("slicegpt", {"share": 0.3})], calibration)
    model = tiny("llama")
    model.get_input_embeddings().weight[3:, 0] = float("nan")
    with pytest.raises(CellFailed, match="NaN"):
        compress(model, [canonical("slicegpt", {"share": 0.3})], sequences())
