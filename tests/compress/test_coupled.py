"""Units of each layout of blocks: cutting them is switching them off; fused matrices are as plain ones."""

import pytest
import torch
import transformers as tf

from kick.compress import canonical, check, check_saved, compress
from kick.compress.coupled import structures
from kick.compress.switches import switched
from kick.compress.widths import KeptWidths, narrow
from kick.errors import KickError
from kick.model import blocks, linears
from tests.support.architectures import sequences, tiny

PLAIN = ["llama", "qwen3", "gemma2", "gemma3", "opt", "gpt2", "gpt_neox", "phi3"]
MIXTURES = ["mixtral", "qwen3_moe"]
GROUPS = ([0], [1], [0, 1]), ([1, 2], [0, 3], [2])  # kept in the three blocks, of two and of four


def weights(model):
    return sum(linear.weight.numel() for block in blocks(model) for linear in linears(block))


def cut(model):
    """Other units in every block, and what was on of them."""
    on = []
    for index, (block, structure) in enumerate(zip(blocks(model), structures(model), strict=True)):
        groups = torch.tensor(GROUPS[structure.kv_heads == 4][index])
        channels = (
            torch.randperm(structure.channels)[: structure.channels // (index + 1) - index].sort().values
        )
        on.append((torch.zeros(structure.kv_heads), torch.zeros(structure.channels)))
        on[-1][0][groups], on[-1][1][channels] = 1, 1
        narrow(block, structure, KeptWidths(groups, channels))
    return on


@pytest.mark.parametrize("name", PLAIN + MIXTURES)
def test_cutting_units_is_switching_them_off(name):
    torch.manual_seed(0)
    model, dense, ids = tiny(name), tiny(name), sequences(1, 20, seed=3)[0]
    sizes = [one.size for one in structures(dense)]
    on = cut(model)
    with torch.no_grad(), switched(structures(dense), on):
        expected = dense(ids).logits
        answer = dense.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False), answer)
    gone = sum(
        size.group_weights * int((groups == 0).sum()) + size.channel_weights * int((channels == 0).sum())
        for size, (groups, channels) in zip(sizes, on, strict=True)
    )
    assert weights(model) == weights(dense) - gone


def unfused():
    """Phi-3's tiny model, and a Llama with the same weights in matrices of their own."""
    fused = tiny("phi3")
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config = {name: getattr(fused.config, name) for name in (*names, "num_key_value_heads", "rms_norm_eps")}
    plain = tf.LlamaForCausalLM(tf.LlamaConfig(**config)).eval().requires_grad_(False)
    state = {}
    for name, value in fused.state_dict().items():
        if "qkv_proj" in name:
            for part, rows in zip("qkv", value.split([32, 16, 16]), strict=True):
                state[name.replace("qkv_proj", f"{part}_proj")] = rows
        elif "gate_up_proj" in name:
            for part, rows in zip(("gate", "up"), value.chunk(2), strict=True):
                state[name.replace("gate_up_proj", f"{part}_proj")] = rows
        else:
            state[name] = value
    plain.load_state_dict(state)
    return fused, plain


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("flap", {}),
        ("llm-pruner", {}),
        ("liar", {"after": "magnitude"}),
        ("transact", {"shots": 2}),
        ("seap", {"first": 0, "last": 0}),
        ("adapt-pruner", {"steps": 2}),
        ("bonsai", {"part": 0.2, "pairs": 8, "sequences": 4}),  # of fewer, rounding decides
        ("slicegpt", {}),
    ],
)
def test_fused_matrices_are_pruned_as_plain_ones(method, options):
    models, ids, logits = unfused(), sequences(1, 20, seed=3)[0], []
    for model in models:
        compress(model, [canonical(method, {"share": 0.5, **options})], sequences(8))
        with torch.no_grad():
            logits.append(model(ids).logits)
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-4)
    assert weights(models[0]) == weights(models[1]) < weights(tiny("phi3"))


def test_a_rotated_fused_model_computes_what_it_did():
    found = []
    for model in unfused():
        compress(model, [canonical("quarot", {"bits": 8, "activations": 8, "weights": "rtn"})], sequences())
        with torch.no_grad():
            found.append(model(sequences(1)[0]).logits)
    torch.testing.assert_close(*found, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["opt", "gpt2", "gpt_neox"])
def test_heads_that_the_config_cannot_say_are_not_saved_and_channels_are(name):
    for method in ("flap", "llm-pruner", "transact"):
        with pytest.raises(KickError, match=r"no word for the size of a head.*`fit: true`.*below 0\.25, or"):
            check_saved(tiny(name), [canonical(method, {"share": 0.5})])
    check_saved(tiny(name), [canonical("llm-pruner", {"share": 0.1, "fit": True})])


def test_phi3_is_saved_without_biases():
    check_saved(tiny("phi3"), [canonical("flap", {"share": 0.5, "bias": False})])
    with pytest.raises(KickError, match="bias: false"):
        check_saved(tiny("phi3"), [canonical("flap", {"share": 0.5})])


def test_of_a_mixture_the_attention_alone_is_pruned():
    model, dense = tiny("mixtral"), weights(tiny("mixtral"))
    report = compress(model, [canonical("flap", {"share": 0.5})], sequences())
    attention = 3 * 2 * (32 * 32 + 32 * 16)  # q and o, k and v of three blocks
    assert report["steps"][0]["removed"] == {
        "weights": attention // 2, "of": dense, "share": attention / 2 / dense
    }  # fmt: skip
    assert model.config.num_key_value_heads == 1
    assert model.config.intermediate_size == tiny("mixtral").config.intermediate_size
    check_saved(tiny("mixtral"), [canonical("flap", {"share": 0.5, "bias": False})])
    for step in (("flap", {"fit": True}), ("bonsai", {}), ("transact", {})):
        with pytest.raises(KickError, match=r"has experts.*choose flap or llm-pruner without `fit`"):
            check(tiny("mixtral"), [canonical(step[0], {"share": 0.3, **step[1]})])


@pytest.mark.parametrize("name", ["qwen3_5", "olmo2"])
def test_heads_that_cannot_be_told_apart_are_refused(name):
    with pytest.raises(KickError, match="choose last-n"):
        check(tiny(name), [canonical("flap", {"share": 0.5})])
