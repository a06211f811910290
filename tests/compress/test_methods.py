"""Methods against independent oracles: the golden vectors, closed forms, and what the papers claim."""

import math

import pytest
import torch

from kick.compress import canonical, compress
from kick.compress.activations import RoundedInput, round_rows
from kick.compress.calibrate.gradients import Gradients
from kick.compress.calibrate.statistics import Hessian, Moments
from kick.compress.calibrate.walk import walk
from kick.compress.context import Calibration
from kick.compress.grid import Grid
from kick.compress.methods.admm import Admm
from kick.compress.methods.awq import best_scale, clipped
from kick.compress.methods.eora import branch
from kick.compress.methods.flap import score
from kick.compress.methods.hqq import Hqq
from kick.compress.methods.nf4 import levels, nf4
from kick.compress.methods.shortgpt import block_influence
from kick.compress.methods.smoothquant import norm_readers
from kick.compress.sparsity import Sparsity
from kick.errors import CellFailed
from kick.model import block_list, blocks, linears
from tests.support.architectures import sequences, tiny
from tests.support.golden import agreement, assert_error_close, layer


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(name="a"):
    golden = layer(name)
    hessian = Hessian(golden["weight"].shape[1])
    for sample in golden["inputs"]:
        hessian.add(sample)
    return golden, hessian.matrix


def error(weight, found, hessian):
    change = found - weight
    return float(((change @ hessian) * change).sum())


@pytest.mark.parametrize("share", ["0.5", "0.7"])
@pytest.mark.parametrize("name", ["a", "b"])
def test_admm_is_the_authors(name, share):
    golden, hessian = inputs(name)
    weight, kept = Admm(Sparsity.parse(share)).solve([golden["weight"]], hessian)[0]
    wanted = golden[f"admm.unstructured.{share}.weight"]
    assert agreement(kept, wanted != 0) >= 0.995
    assert int((~kept).sum()) == math.floor(float(share) * kept.numel())
    assert_error_close(weight, wanted, golden)


def test_admm_cubic_schedule_ends_at_the_share():
    golden, hessian = inputs()
    for iterations in (4, 20):
        method = Admm(Sparsity.parse(0.6), iterations=iterations, schedule="cubic")
        weight, _ = method.solve([golden["weight"]], hessian)[0]
        assert int((weight == 0).sum()) == math.floor(0.6 * weight.numel())


def test_nf4_levels_are_the_papers():
    """Table in appendix E of the paper, to its printed digits."""
    printed = [-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0]
    printed += [0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0]
    torch.testing.assert_close(levels(), torch.tensor(printed), rtol=0, atol=2e-6)


def test_nf4_is_nearest_in_each_block():
    weight = random(6, 96)
    rounded = nf4(weight, double=False)
    for place in range(0, weight.numel(), 64):
        part = weight.flatten()[place : place + 64]
        values = levels() * part.abs().max()
        nearest = values[(part[:, None] - values).abs().argmin(1)]
        torch.testing.assert_close(rounded.flatten()[place : place + 64], nearest)
    assert not torch.equal(nf4(weight), rounded)
    torch.testing.assert_close(nf4(weight), rounded, rtol=0.05, atol=1e-6)


def test_hqq_lowers_the_norm_it_minimises():
    weight = random(64, 128).pow(3)  # heavy tails
    plain, better = Hqq(3, iterations=0).round(weight), Hqq(3).round(weight)
    assert (better - weight).abs().mean() < (plain - weight).abs().mean()
    assert all(len(group.unique()) <= 8 for group in better.view(-1, 64))


def test_awq_beats_rounding_where_inputs_differ_in_size():
    weight, x = random(48, 64), random(400, 64, seed=1)
    x[:, :4] *= 30
    hessian, mean = x.t() @ x, x.abs().mean(0)
    grid = Grid(3, 32)
    plain = grid.round(weight, grid.fit(weight))
    scale = best_scale(weight, hessian, mean, grid)
    scaled = grid.round(weight * scale, grid.fit(weight * scale)) / scale
    assert error(weight, scaled, hessian) < 0.7 * error(weight, plain, hessian)
    cut = clipped(weight, hessian, grid)
    by_group = grid.groups(weight).abs().amax(-1) >= grid.groups(cut).abs().amax(-1)
    assert by_group.all()


def test_eora_is_the_papers_projection():
    """B A of the closed form equals U S V^T projected back from the eigenspace of the inputs."""
    change, x = random(12, 16), random(50, 16, seed=1)
    hessian = x.t() @ x
    down, up = branch(change, hessian, 3)
    values, vectors = torch.linalg.eigh(hessian.double())
    eigenspace = vectors * values.sqrt()
    u, s, v = torch.linalg.svd(change.double() @ eigenspace, full_matrices=False)
    wanted = (u[:, :3] * s[:3]) @ v[:3] @ torch.linalg.inv(eigenspace)
    torch.testing.assert_close((up @ down).double(), wanted, rtol=1e-3, atol=1e-4)


def test_gradients_are_autograds():
    """Squares summed over samples, and block by block the same as all at once."""
    model, calibration = tiny("gpt2"), Calibration(tuple(sequences(3)))
    block = blocks(model)[1]
    linear = linears(block)[0]
    parameter = linear.module.weight
    wanted = torch.zeros_like(parameter)
    for ids in calibration:
        parameter.requires_grad_(True)
        (gradient,) = torch.autograd.grad(model(ids, labels=ids).loss, parameter)
        parameter.requires_grad_(False)
        wanted += gradient.square()
    found = Gradients(model, calibration, "squares")
    torch.testing.assert_close(found.of(1, linear), wanted.t())
    assert parameter.grad is None
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("method", ["gblm", "pruner-zero", "llm-pruner"])
def test_gradients_block_by_block_give_the_same(method, tmp_path):
    level = {"share": 0.5} if method == "llm-pruner" else {"sparsity": 0.5}
    states = []
    for offload in (None, tmp_path):
        model = tiny("llama")
        compress(model, [canonical(method, level)], sequences(), offload=offload)
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_rounded_inputs_are_tokens_by_themselves():
    x = random(2, 5, 8)
    x[0, 0, 3] = 50.0
    hook = RoundedInput()
    (whole,) = hook(None, (x,))
    (alone,) = hook(None, (x[1:, 2:3],))
    torch.testing.assert_close(whole[1:, 2:3], alone, rtol=0, atol=0)
    step = x.abs().amax(-1, keepdim=True) / 127
    assert ((whole - x).abs() <= step / 2 + 1e-6).all()
    (kept,) = RoundedInput(6.0)(None, (x,))
    assert kept[0, 0, 3] == 50.0
    assert (kept - x)[0, 0].abs().max() < (whole - x)[0, 0].abs().max()
    assert len(round_rows(random(1, 4000)).unique()) <= 255


@pytest.mark.parametrize("name", ["llama", "qwen3", "opt", "gpt2", "gpt_neox"])
def test_norms_and_their_readers_are_found(name):
    model = tiny(name)
    block = next(iter(walk(model, sequences(1), runs=True)))
    found = norm_readers(block)
    read = sorted(linear.name for _, readers in found for linear in readers)
    if name in ("llama", "qwen3"):
        assert [part.rpartition(".")[2] for part in read] == [
            "gate_proj",
            "up_proj",
            "k_proj",
            "q_proj",
            "v_proj",
        ]
    assert len(found) == 2


@pytest.mark.parametrize("name", ["llama", "opt", "gpt2"])
def test_smoothing_changes_little(name):
    """No block is left out, and outputs stay near the dense ones."""
    model, dense = tiny(name), tiny(name)
    report = compress(model, [canonical("smoothquant", {})], sequences())
    assert not [note for note in report["notes"] if note["kind"] == "not smoothed"]
    ids = sequences(1, seed=4)[0]
    with torch.no_grad():
        wanted, found = dense(ids).logits, model(ids).logits
    assert (wanted - found).abs().max() < 0.1 * wanted.abs().max()


def test_flap_score_and_bias():
    moments = Moments(2)
    moments.add(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    weight = torch.tensor([[1.0, 5.0], [2.0, 5.0]])
    torch.testing.assert_close(score(weight, moments), torch.tensor([2.0 * 5.0, 0.0]))
    torch.testing.assert_close(moments.mean, torch.tensor([2.0, 0.0]))


def test_flap_without_variance_costs_nothing():
    """Where inputs of o and down never vary, the bias stands in for them exactly."""
    model = tiny("llama")
    for block in blocks(model):
        structure = {linear.name.rpartition(".")[2]: linear for linear in linears(block)}
        for name in ("v_proj", "up_proj"):
            structure[name].weight[structure[name].weight.shape[0] // 2 :] = 0
    ids = sequences(1, seed=4)[0]
    with torch.no_grad():
        before = model(ids).logits
        compress(model, [canonical("flap", {"share": 0.5})], sequences())
        torch.testing.assert_close(model(ids).logits, before, rtol=1e-3, atol=1e-4)
    assert model.config.num_attention_heads == 2
    assert model.config.intermediate_size == 32


def test_llm_pruner_takes_what_has_no_gradient():
    model = tiny("llama")
    for block in blocks(model):
        structure = {linear.name.rpartition(".")[2]: linear for linear in linears(block)}
        for name in ("q_proj", "k_proj", "v_proj", "up_proj", "gate_proj"):
            structure[name].weight[: structure[name].weight.shape[0] // 2] = 0
        for name in ("o_proj", "down_proj"):
            structure[name].weight[:, : structure[name].weight.shape[1] // 2] = 0
    ids = sequences(1, seed=4)[0]
    with torch.no_grad():
        before = model(ids).logits
    compress(model, [canonical("llm-pruner", {"share": 0.5})], sequences())
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, before, rtol=1e-3, atol=1e-4)


def silent(model, index):
    """Make a block give what it gets."""
    for linear in linears(blocks(model)[index]):
        if linear.name.endswith(("o_proj", "down_proj")):
            linear.weight.zero_()


def test_shortgpt_drops_the_block_that_does_nothing():
    model = tiny("llama")
    silent(model, 1)
    dense = tiny("llama")
    silent(dense, 1)
    assert float(block_influence(model, Calibration(tuple(sequences())))[1]) == pytest.approx(0, abs=1e-6)
    report = compress(model, [canonical("shortgpt", {"layers": 1})], sequences())
    assert {"kind": "dropped layers", "layers": [1]} in report["notes"]
    ids = sequences(1, seed=4)[0]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, dense(ids).logits)


def test_laco_merges_what_does_nothing_and_keeps_what_does():
    model = tiny("llama")
    silent(model, 2)
    for linear, other in zip(linears(blocks(model)[1]), linears(blocks(model)[2]), strict=True):
        linear.weight.copy_(other.weight)
    silent(model, 1)
    options = {"merge": 2, "threshold": 0.999, "layers": 1}
    report = compress(model, [canonical("laco", options)], sequences())
    assert {"kind": "merged layers", "into": 1, "taken": [2]} in report["notes"]
    assert len(block_list(model)[1]) == model.config.num_hidden_layers == 2
    strict = tiny("llama")
    before = {key: value.clone() for key, value in strict.state_dict().items()}
    with pytest.raises(CellFailed, match=r"merged nothing: .* cosine 0\.\d\d, not above threshold 1"):
        compress(strict, [canonical("laco", options | {"threshold": 1.0})], sequences())
    assert all(torch.equal(value, before[key]) for key, value in strict.state_dict().items())


def test_magnitude_global_is_one_threshold():
    model, dense = tiny("llama"), tiny("llama")
    compress(model, [canonical("magnitude", {"sparsity": 0.3, "per": "global"})], [])
    every = torch.cat([linear.weight.flatten() for block in blocks(dense) for linear in linears(block)]).abs()
    after = torch.cat([linear.weight.flatten() for block in blocks(model) for linear in linears(block)])
    assert int((after == 0).sum()) == math.floor(0.3 * every.numel())
    assert every[after == 0].max() <= every[after != 0].min()
