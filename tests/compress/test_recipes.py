"""Steps after steps, half precision, and blocks that give more than hidden states."""

import pytest
import torch
import transformers as tf

from kick.compress import canonical, check, compress
from kick.compress.activations import round_rows
from kick.compress.context import Calibration
from kick.compress.sparsity import Sparsity
from kick.errors import KickError
from kick.model import block_list, linears
from kick.paths import OFFLOAD_VARIABLE, offload_folder
from kick.sweep.run import RunOptions, prepare
from tests.support.architectures import VOCABULARY, sequences, tiny


def weights(model):
    path, modules = block_list(model)
    return {
        f"{path}.{i}.{linear.name}": linear.weight
        for i, block in enumerate(modules)
        for linear in linears(block)
    }


@pytest.mark.parametrize("method", ["sparsegpt", "admm"])
@pytest.mark.parametrize(("first", "second"), [(0.3, 0.5), ("1:4", "2:4"), (0.5, 0.3)])
def test_a_second_pruning_goes_on_from_the_first(method, first, second):
    """Its level is the total: what went stays away, whatever errors were spread to it."""
    steps = [canonical("wanda", {"sparsity": first}), canonical(method, {"sparsity": second})]
    one, both = tiny("llama"), tiny("llama")
    compress(one, steps[:1], sequences())
    compress(both, steps, sequences())
    level = Sparsity.parse(max(first, second))
    alone = weights(one)
    for name, weight in weights(both).items():
        gone = weight == 0
        assert gone[alone[name] == 0].all()
        if level.m:
            assert (gone.unflatten(1, (-1, level.m)).sum(-1) == level.n).all()
        elif second > first:
            assert gone.sum() == level.count(weight.numel())
        else:
            assert torch.equal(gone, alone[name] == 0)


def test_a_side_branch_makes_up_for_smoothed_weights():
    """The dense weights move with the norm that was divided."""
    ids = sequences(1, seed=5)[0]
    with torch.no_grad():
        dense = tiny("llama")(ids).logits
        error = {}
        for rank in (0, 24):
            model = tiny("llama")
            steps = [canonical("smoothquant", {}), canonical("eora", {"rank": max(rank, 1)})]
            compress(model, steps if rank else steps[:1], sequences())
            error[rank] = (model(ids).logits - dense).square().mean()
    assert error[24] < 1.05 * error[0]  # what is left is the activations' rounding


@pytest.mark.parametrize("quantizer", ["nf4", "hqq", "awq"])
@pytest.mark.parametrize(("pruner", "stays"), [("wanda", True), ("sparsegpt", False)])
def test_weights_that_left_their_format_are_not_counted_in_it(quantizer, pruner, stays):
    options = {"nf4": {}, "hqq": {"bits": 4, "group_size": 8}, "awq": {"bits": 4, "group_size": 8}}[quantizer]
    calibration = Calibration(tuple(sequences()))
    steps = [canonical(quantizer, options), canonical(pruner, {"sparsity": 0.5})]
    report = compress(tiny("llama"), steps, calibration)
    assert bool(calibration.formats) == stays
    assert any(note["kind"] == "no longer in its format" for note in report["notes"]) != stays
    assert (report["footprint"]["bits_per_weight"] < 9) == stays  # else a bit and half of 16


def test_owl_and_a_global_threshold_take_only_what_they_are_told():
    name = "model.layers.1.mlp.down_proj"
    for method, options in (("owl", {"spread": 0.0}), ("magnitude", {"per": "global"})):
        model = tiny("llama")
        compress(model, [canonical(method, {"sparsity": 0.5, "only": name} | options)], sequences())
        gone = {key: int((weight == 0).sum()) for key, weight in weights(model).items()}
        assert gone.pop(name) == weights(model)[name].numel() // 2
        assert not any(gone.values())


def test_a_model_that_got_smaller_is_checked_again():
    drops = [canonical("last-n", {"layers": 2}), canonical("shortgpt", {"layers": 1})]
    with pytest.raises(KickError, match="cannot drop 3 of 3 layers"):
        check(tiny("llama"), drops)
    steps = [canonical("flap", {"share": 0.34}), canonical("rtn", {"bits": 4, "group_size": 16})]
    with pytest.raises(KickError, match="does not divide 43 inputs"):
        compress(tiny("llama"), steps, sequences())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("wanda", {"sparsity": 0.5}),
        ("sparsegpt", {"sparsity": "2:4"}),
        ("gptq", {"bits": 4}),
        ("awq", {"bits": 4}),
        ("smoothquant", {}),
        ("llm.int8", {}),
    ],
)
def test_half_precision_does_not_overflow(method, options, dtype):
    """The sum of a block's output is beyond float16 here, and each of its values is not."""
    model = tiny("llama")
    model.model.embed_tokens.weight.data += 200
    model.to(dtype)
    compress(model, [canonical(method, options)], sequences())
    with torch.no_grad():
        assert model(sequences(1)[0]).logits.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_tokens_are_rounded_as_in_float32(dtype):
    values = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    values[2] = 0
    assert torch.equal(round_rows(values), round_rows(values.float()).to(dtype))
    assert not round_rows(values)[2].any()


def gptj():
    config = tf.GPTJConfig(
        vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=128, rotary_dim=4,
        initializer_range=0.15, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return tf.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("method", "options"),
    [("wanda", {"sparsity": 0.5}), ("gptq", {"bits": 4}), ("shortgpt", {"layers": 1}), ("smoothquant", {})],
)
def test_blocks_that_give_attention_weights_too(method, options):
    model, dense = gptj(), gptj()
    ids = sequences(1)[0]
    compress(model, [canonical(method, options)], sequences())
    with torch.no_grad():
        assert model(ids).logits.isfinite().all()
        assert not torch.equal(model(ids).logits, dense(ids).logits)


def test_a_folder_for_hidden_states_is_looked_at_first(monkeypatch, tmp_path):
    monkeypatch.setenv(OFFLOAD_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(KickError, match="nowhere' is not a folder"):
        prepare("smoke", RunOptions(out=str(tmp_path)))
    monkeypatch.setenv(OFFLOAD_VARIABLE, str(tmp_path))
    assert offload_folder() == tmp_path
