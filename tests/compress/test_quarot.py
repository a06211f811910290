"""QuaRot: rotations are orthogonal, the rotated dense model computes what it did, and outliers cost less."""

import pytest
import torch

from kick.compress import canonical, check, compress
from kick.compress.context import Calibration
from kick.compress.methods.quarot import RoundedToken, rotate
from kick.compress.rotation import hadamard, rotation
from kick.errors import KickError
from kick.model import blocks, linears
from tests.support.architectures import sequences, tiny


@pytest.mark.parametrize("size", [1, 2, 4, 8, 12, 20, 28, 36, 64, 192, 576, 1536])
def test_hadamard_matrices_have_orthogonal_rows_of_ones(size):
    found = hadamard(size)
    assert set(found.unique().tolist()) <= {-1.0, 1.0}
    assert torch.equal(found @ found.t(), size * torch.eye(size, dtype=torch.float64))


@pytest.mark.parametrize(("size", "exact"), [(24, True), (6, False), (172, False)])
def test_rotations_are_orthogonal_whatever_the_size(size, exact):
    found, is_hadamard = rotation(size, torch.Generator().manual_seed(0))
    assert is_hadamard == exact
    torch.testing.assert_close(found @ found.t(), torch.eye(size, dtype=torch.float64))


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_logits_of_the_rotated_dense_model_are_the_same(name):
    model, dense = tiny(name), tiny(name)
    for one in (model, dense):
        for block in blocks(one):  # biases too, and a norm far from one
            block.input_layernorm.weight.mul_(torch.linspace(0.2, 3, 32))
            for linear in linears(block):
                if linear.name.endswith(("o_proj", "down_proj")):
                    bias = torch.linspace(-1, 1, linear.weight.shape[0])
                    linear.module.bias = torch.nn.Parameter(bias, requires_grad=False)
    calibration = Calibration(tuple(sequences()))
    rotate(model, 0, calibration)
    ids = sequences(1, 32, seed=3)[0]
    with torch.no_grad():
        wanted, found = dense(ids).logits, model(ids).logits
    assert float((wanted - found).abs().max()) < 1e-4 * max(1.0, float(wanted.abs().max()))
    assert not torch.equal(blocks(model)[0].mlp.up_proj.weight, blocks(dense)[0].mlp.up_proj.weight)
    assert not calibration.notes


def test_tokens_are_rounded_by_themselves_to_so_many_levels():
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    (found,) = RoundedToken(4, 1.0)(None, (x,))
    step = x.abs().amax(dim=-1, keepdim=True) / 7
    assert ((found - x).abs() <= step / 2 + 1e-6).all()
    assert all(len(row.unique()) <= 15 for row in found.flatten(0, 1))
    (alone,) = RoundedToken(4, 1.0)(None, (x[1:, 2:3],))
    assert torch.equal(found[1:, 2:3], alone)
    (clipped,) = RoundedToken(4, 0.9)(None, (x,))
    assert clipped.abs().amax() <= 0.9 * x.abs().amax() + 1e-6


def outlying():
    """A model that computes what the tiny one does, with a channel a hundred times as large as the others."""
    model = tiny("llama")
    for block in blocks(model):
        parts = {linear.name.rpartition(".")[2]: linear.weight for linear in linears(block)}
        block.input_layernorm.weight[3] *= 100
        block.post_attention_layernorm.weight[3] *= 100
        for name in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"):
            parts[name][:, 3] /= 100
    return model


def error(model, dense):
    ids = sequences(1, 32, seed=3)[0]
    with torch.no_grad():
        return float((model(ids).logits - dense(ids).logits).square().mean())


@pytest.mark.parametrize("weights", ["rtn", "gptq"])
def test_outliers_cost_less_after_a_rotation(weights):
    dense, rotated, plain = outlying(), outlying(), outlying()
    options = {"bits": 4, "activations": 4, "weights": weights}
    compress(rotated, [canonical("quarot", options)], sequences())
    compress(plain, [canonical(weights, {"bits": 4, "symmetric": True, "mse": True})], sequences())
    for block in blocks(plain):
        for linear in linears(block):
            linear.module.register_forward_pre_hook(RoundedToken(4, 0.9))
    assert error(rotated, dense) < error(plain, dense)


def test_more_bits_are_nearer_and_the_report_says_how_many():
    errors = []
    for bits, activations in ((4, 4), (4, 8), (8, 16)):
        model, calibration = tiny("llama"), Calibration(tuple(sequences()))
        options = {"bits": bits, "activations": activations}
        compress(model, [canonical("quarot", options)], calibration)
        errors.append(error(model, tiny("llama")))
        stored = {(one.bits, one.activation_bits) for one in calibration.formats.values()}
        assert stored == {(bits, activations)}
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([("magnitude", {"sparsity": 0.5}), ("quarot", {"bits": 4})], "must come before magnitude"),
        ([("quarot", {"bits": 4}), ("eora", {"rank": 2})], "must be the last step: it rotates all weights"),
    ],
)
def test_orders_that_a_rotation_forbids_are_refused(steps, words):
    with pytest.raises(KickError, match=words):
        check(tiny("llama"), [canonical(name, options) for name, options in steps])


def test_norms_that_a_rotation_does_not_pass_are_refused():
    model = tiny("llama")
    norm = blocks(model)[1].input_layernorm
    norm.register_forward_hook(lambda _module, _args, output: output + 1)
    with pytest.raises(KickError, match="norms in its blocks that a rotation does not pass"):
        check(model, [canonical("quarot", {"bits": 4})])


def test_a_model_without_a_final_norm_is_refused():
    model = tiny("llama")
    model.model.norm = None
    for name, options in (("quarot", {"bits": 4}), ("slicegpt", {"share": 0.2})):
        with pytest.raises(KickError, match=f"no final norm that {name} knows"):
            check(model, [canonical(name, options)])
