"""The walk, its statistics and its numerics."""

import importlib
from collections import UserDict

import pytest
import torch
import transformers

from kick.compress import canonical, compress, solver
from kick.compress.calibrate import attention
from kick.compress.calibrate.attention import in_parts
from kick.compress.calibrate.statistics import AbsMax, Hessian, InputNorm, Moments
from kick.compress.calibrate.walk import shared, walk
from kick.compress.context import Calibration
from kick.compress.grid import Grid
from kick.compress.methods.gptq import ColumnOrder, gptq
from kick.compress.solver import factor, silence
from kick.errors import CellFailed
from kick.model import blocks, linears, watch
from tests.support.architectures import ARCHITECTURES, sequences, tiny


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seen_in_a_plain_forward(model, index, ids):
    """Inputs of a block's linears when the whole model runs."""
    seen = {}
    block = blocks(model)[index]
    with torch.no_grad(), watch(block, linears(block), lambda linear, x: seen.update({linear.name: x})):
        model(ids, use_cache=False)
    return seen


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_block_inputs_are_those_of_the_whole_model(name):
    """Every block's statistics equal what a forward pass of the model as it is by then shows."""
    model = tiny(name)
    data = sequences(2) + sequences(1, length=17)
    for block in walk(model, data):
        found = block.measure(Moments)
        for linear in block.linears:
            total = torch.zeros(linear.weight.shape[1])
            for ids in data:
                x = seen_in_a_plain_forward(model, block.index, ids).get(linear.name)
                total += 0 if x is None else x.reshape(-1, x.shape[-1]).sum(0)
            if linear.expert is None or found[linear.name].tokens > 1:
                torch.testing.assert_close(
                    found[linear.name].tensors["total"].float(), total, rtol=1e-3, atol=1e-3
                )
        for linear in block.linears:
            linear.weight.mul_(0.9)  # the next block must see this


def test_shared_inputs_share_one_statistic():
    block = next(iter(walk(tiny("llama"), sequences())))
    groups = [[linear.name for linear in group] for _, group in shared(block.measure(Hessian), block.linears)]
    assert groups == [
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ["self_attn.o_proj"],
        ["mlp.gate_proj", "mlp.up_proj"],
        ["mlp.down_proj"],
    ]


def test_an_expert_without_tokens_is_noted_and_served():
    model = tiny("mixtral")
    for block in blocks(model):
        block.mlp.gate.weight.data[3:] = 0
        block.mlp.gate.weight.data[:3] = 5 * random(3, 32)
    calibration = Calibration(tuple(sequences(1, length=6)))
    report = compress(model, [canonical("sparsegpt", {"sparsity": 0.5})], calibration)
    missed = [note["linear"] for note in report["notes"] if note["kind"] == "expert saw no token"]
    assert missed
    assert report["steps"][0]["sparsity"] == 0.5


def test_disk_and_memory_give_the_same(tmp_path):
    states = []
    for offload in (None, tmp_path):
        model = tiny("llama")
        compress(model, [canonical("gptq", {"bits": 4})], sequences(), offload=offload)
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_run_where_nothing_is_measured(monkeypatch):
    model = tiny("llama")
    monkeypatch.setattr(model, "forward", None)
    compress(model, [canonical("magnitude", {"sparsity": 0.5})], sequences())


def test_last_block_is_not_run_again_and_the_first_forward_stops_early():
    model = tiny("llama")
    runs = {"down": 0, "last": 0}

    def count(key):
        def hook(*_):
            runs[key] += 1

        return hook

    blocks(model)[0].mlp.down_proj.register_forward_hook(count("down"))
    blocks(model)[2].mlp.down_proj.register_forward_hook(count("last"))
    compress(model, [canonical("wanda", {"sparsity": 0.5})], sequences(4))
    assert runs == {"down": 1 + 4, "last": 0}  # only the first block's first sample shows what comes last


# ------------------------------------------------------------------------------- propagate: dense


def test_dense_propagation_is_one_pass_of_the_dense_model():
    """All blocks see the dense model's inputs, however the blocks before them were changed."""
    model, dense = tiny("llama"), tiny("llama")
    ids = sequences(1)[0]
    for block in walk(model, Calibration((ids,), propagate="dense")):
        found = block.measure(InputNorm)
        wanted = seen_in_a_plain_forward(dense, block.index, ids)
        for linear in block.linears:
            square = wanted[linear.name].reshape(-1, linear.weight.shape[1]).square().sum(0)
            torch.testing.assert_close(found[linear.name].square, square, rtol=1e-4, atol=1e-6)
            linear.weight.zero_()


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "smoothquant", "awq"])
def test_statistics_on_disk_serve_every_level(method, tmp_path, monkeypatch):
    options = {"wanda": {"sparsity": 0.5}, "sparsegpt": {"sparsity": "2:4"}, "awq": {"bits": 4}}
    step = canonical(method, options.get(method, {}))
    direct, kept = tiny("llama"), tiny("llama")
    compress(direct, [step], sequences(), propagate="dense")
    compress(kept, [step], sequences(), propagate="dense", memory=tmp_path)
    again = tiny("llama")
    if method != "smoothquant":  # which has to run blocks
        monkeypatch.setattr(again, "forward", None)
    compress(again, [step], sequences(), propagate="dense", memory=tmp_path)
    for key, value in direct.state_dict().items():
        assert torch.equal(value, kept.state_dict()[key])
        assert torch.equal(value, again.state_dict()[key])


def test_dense_and_compressed_propagation_differ():
    step = canonical("sparsegpt", {"sparsity": 0.7})
    states = []
    for propagate in ("compressed", "dense"):
        model = tiny("llama")
        report = compress(model, [step], sequences(), propagate=propagate)
        assert report["propagate"] == propagate
        states.append(model.state_dict())
    assert not all(torch.equal(value, states[1][key]) for key, value in states[0].items())


# ------------------------------------------------------------------------------- numerics


def test_statistics_do_not_depend_on_how_samples_come():
    x = random(30, 8)
    for kind in (InputNorm, Hessian, AbsMax, Moments):
        one, two = kind(8), kind(8)
        one.add(x[:20])
        one.add(x[20:])
        two.add(x[20:])
        two.add(x[:20])
        for name, tensor in one.tensors.items():
            torch.testing.assert_close(tensor, two.tensors[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # the second goes the way of a GPU
@pytest.mark.parametrize("size", [40, 289, 601])
def test_factor_is_the_three_steps(size, dtype):
    """U^T U is the inverse of the damped Hessian: damping reaches the matrix itself, below it is not read."""
    x = random(size + 10, size)
    hessian = x.t() @ x
    given = (hessian.triu() + torch.full_like(hessian, torch.nan).tril(-1)).to(dtype)
    upper = factor(given.clone(), 0.1, "layer", Calibration()).upper
    unit = torch.eye(size, dtype=torch.float64)
    damped = hessian.double() + 0.1 * hessian.diagonal().mean().double() * unit
    wanted = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    torch.testing.assert_close(upper.double(), wanted, rtol=1e-4, atol=1e-6)
    reverse = factor(given, 0.1, "layer", Calibration(), inverse=False).upper.double()
    torch.testing.assert_close(reverse @ reverse.t(), damped, rtol=1e-4, atol=1e-3)
    assert torch.equal(reverse, reverse.triu())


@pytest.mark.parametrize("inverse", [True, False])
@pytest.mark.parametrize("size", [40, 200])
def test_more_damping_is_noted_and_has_an_end(size, inverse):
    x = random(4, size)
    calibration = Calibration()
    factor(x.t() @ x, 0.0, "layer", calibration, inverse)
    assert calibration.notes[0]["kind"] == "more damping"
    assert 0 < calibration.notes[0]["used"] <= 1
    with pytest.raises(CellFailed, match="layer is not positive definite"):
        factor(-(x.t() @ x), 0.01, "layer", Calibration(), inverse)


def test_dead_inputs_get_zero_weights():
    model = tiny("llama")
    for block in blocks(model):
        block.input_layernorm.weight.data[5] = 0  # input 5 of q, k, v is always zero
    for method, options in (("sparsegpt", {"sparsity": 0.3}), ("gptq", {"bits": 8})):
        again = tiny("llama")
        again.load_state_dict(model.state_dict())
        compress(again, [canonical(method, options)], sequences())
        for block in blocks(again):
            assert (block.self_attn.q_proj.weight[:, 5] == 0).all()
    assert silence(torch.diag(torch.tensor([1.0, 0.0]))).tolist() == [False, True]


def test_a_weight_with_nan_is_named():
    model = tiny("llama")
    blocks(model)[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(CellFailed, match=r"weight of model\.layers\.1\.mlp\.up_proj has NaN"):
        compress(model, [canonical("magnitude", {"sparsity": 0.5})], [])


def test_an_input_with_infinity_is_named():
    model = tiny("llama")
    blocks(model)[1].post_attention_layernorm.weight.data[0] = float("inf")
    with pytest.raises(CellFailed, match=r"input of model\.layers\.1\.mlp\.gate_proj has NaN or infinity"):
        compress(model, [canonical("wanda", {"sparsity": 0.5})], sequences())


@pytest.mark.parametrize("groups", [6, 2, 1])
@pytest.mark.parametrize("length", [128, 200, 512])
def test_attention_in_parts_is_attention(length, groups):
    """Heads that share keys and values too, values of another size than keys, two sequences at once."""
    query, key, value = (random(2, n, length, d, seed=d) for n, d in ((6, 8), (groups, 8), (groups, 5)))
    key_of_each, value_of_each = (x.repeat_interleave(6 // groups, 1) for x in (key, value))
    scores = (query @ key_of_each.transpose(2, 3) * 0.3).masked_fill(
        ~torch.ones(length, length).tril().bool(), -torch.inf
    )
    wanted = (scores.softmax(-1) @ value_of_each).transpose(1, 2)
    torch.testing.assert_close(in_parts(query, key, value, 0.3), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "opt", "gpt_neox", "mixtral"])
def test_a_pass_with_our_attention_gives_the_models_own_states(name, monkeypatch):
    """Where sequences are long enough for it, grouped heads too; the model's attention is as before after."""
    lengths = []

    def noted(query, *rest):
        lengths.append(query.shape[2])
        return in_parts(query, *rest)

    for what, value in (("LENGTHS", range(8, 1025)), ("QUERIES", 8), ("in_parts", noted)):
        monkeypatch.setattr(attention, what, value)
    model, data = tiny(name), sequences(2, 24)
    with torch.no_grad():
        wanted = model(data[0], output_hidden_states=True).hidden_states[-2]
    *_, last = walk(model, data, runs=True)
    last.measure(InputNorm)
    assert model.config._attn_implementation == "sdpa"
    assert set(lengths) == {24}
    found = last.feed.states.get(last.index, 0)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def given(monkeypatch, model, name, value_of, use):
    """Let the model give its blocks one argument more; `use` makes it part of what a block gives."""
    kind, inner = type(blocks(model)[0]), model.model.forward
    plain = kind.forward

    def block(self, hidden_states, **options):
        more = options.pop(name)
        return use(self, plain(self, hidden_states, **options), more)

    def whole(input_ids, **options):
        return inner(input_ids, **{name: value_of(input_ids)}, **options)

    monkeypatch.setattr(kind, "forward", block)
    monkeypatch.setattr(model.model, "forward", whole)


def first_hidden(block, hidden, shared):
    """What the first block gives is left for the later ones."""
    if block.self_attn.layer_idx == 0:
        shared["first"] = hidden
    return hidden + shared["first"]


@pytest.mark.parametrize("what", ["tokens", "a container"])
def test_blocks_that_are_given_more_than_hidden_states_get_each_samples_own(what, monkeypatch):
    """An embedding of the tokens (Gemma 3n); a container for what blocks leave each other (Gemma 4)."""
    model, data = tiny("llama"), sequences(3, 24)
    embed = model.model.embed_tokens
    if what == "tokens":
        given(monkeypatch, model, "more", embed, lambda _, hidden, more: hidden + more)
    else:
        given(monkeypatch, model, "more", lambda _: UserDict(), first_hidden)
    with torch.no_grad():
        wanted = [model(ids, output_hidden_states=True).hidden_states[-2] for ids in data]
    *_, last = walk(model, data, runs=True)
    last.measure(InputNorm)
    for sample, states in enumerate(wanted):
        torch.testing.assert_close(last.feed.states.get(last.index, sample), states, rtol=1e-4, atol=1e-5)


def test_samples_that_are_called_alike_share_one_note():
    model, data = tiny("llama"), [*sequences(2, 24), *sequences(1, 16)]
    block = next(walk(model, data))
    block.measure(InputNorm)
    first, second, third = block.feed.calls
    assert first is second
    assert first is not third


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("gptq", {"bits": 4}),
        ("gptq", {"bits": 3, "group_size": 8, "act_order": True}),
        ("sparsegpt", {"sparsity": 0.5}),
        ("sparsegpt", {"sparsity": "2:4"}),
    ],
)
def test_the_arithmetic_of_a_gpu_gives_what_the_cpus_gives(method, options, monkeypatch):
    """Torch's calls, here on the CPU, against numpy's and BLAS's; one block: rounding grows with depth."""
    ours, torchs = (tiny("llama"), tiny("llama"))
    names = [f"model.layers.0.{linear.name}" for linear in linears(blocks(ours)[0])]
    data = sequences(4, 24)
    compress(ours, [canonical(method, options)], data)
    for module in (solver, importlib.import_module(f"kick.compress.methods.{method}")):
        monkeypatch.setattr(module, "arithmetic", lambda _columns: solver._TORCH)
    compress(torchs, [canonical(method, options)], data)
    for name in names:
        one, other = (model.get_submodule(name).weight for model in (ours, torchs))
        same = torch.isclose(one, other, rtol=1e-4, atol=1e-6)
        assert same.float().mean() > 0.99, name  # a weight half way between two codes may go either way


@pytest.mark.parametrize("pruned", [True, False])
@pytest.mark.parametrize("inverse", [True, False])
def test_gptq_is_the_papers_column_loop(inverse, pruned):
    """In float64, a column at a time, with weights that an earlier step pruned left at zero."""
    weight, x = random(24, 150), random(400, 150, seed=1)
    kept = random(24, 150, seed=2) > 0 if pruned else None
    weight = weight if kept is None else weight * kept
    hessian = x.t() @ x
    grid = Grid(4)
    scale = grid.fit(weight)
    unit = 0.01 * hessian.diagonal().mean() * torch.eye(150)
    upper = torch.linalg.cholesky(torch.linalg.inv((hessian + unit).double()), upper=True)
    left, wanted = weight.double(), torch.zeros_like(weight, dtype=torch.float64)
    for i in range(150):
        wanted[:, i] = grid.round(left[:, i : i + 1].float(), scale)[:, 0]
        if kept is not None:
            wanted[:, i] *= kept[:, i]
        error = (left[:, i] - wanted[:, i]) / upper[i, i]
        left[:, i:] -= error[:, None] * upper[i, i:]
    found = factor(hessian, 0.01, "layer", Calibration(), inverse)
    ((made, _),) = gptq([weight], found, ColumnOrder(grid, kept=None if kept is None else kept.t()))
    assert torch.isclose(made.double(), wanted, rtol=1e-4, atol=1e-5).double().mean() > 0.99
    assert kept is None or not made[~kept].any()


def test_a_model_whose_blocks_give_more_than_hidden_states_is_refused():
    sizes = {"hidden_size": 64, "embedding_dim": 64, "num_hidden_layers": 2, "num_blocks": 2, "num_heads": 4}
    config = transformers.xLSTMConfig(vocab_size=96, qk_dim_factor=1.0, v_dim_factor=1.0, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config).requires_grad_(False)
    with pytest.raises(CellFailed, match="cannot be run block by block"):
        compress(model, [canonical("wanda", {"sparsity": 0.5})], sequences())
    compress(model, [canonical("magnitude", {"sparsity": 0.5})], [])
