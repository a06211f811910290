"""Architectures, dtypes and recipes off the usual path: each was once got wrong without an error."""

import pytest
import torch
import transformers as tf

from kick.compress import canonical, check, check_saved, compress, twin
from kick.compress.calibrate.gradients import gradients
from kick.compress.calibrate.statistics import Hessian, InputNorm, Moments
from kick.compress.calibrate.walk import walk
from kick.compress.checkpoint import save
from kick.compress.context import Calibration
from kick.errors import CellFailed, KickError
from kick.model import blocks, linears, load, resolve
from kick.model.footprint import Storage, footprint, packed_bits
from tests.support.architectures import sequences, tiny

SIZES = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
STARTS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@pytest.fixture(scope="module")
def tokenizer():
    return load(resolve("smoke"))[1]


def made(config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return tf.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def unsmoothed(model):
    calibration = Calibration(tuple(sequences()))
    compress(model, [canonical("smoothquant", {})], calibration)
    return [note for note in calibration.notes if note["kind"] == "not smoothed"]


@pytest.mark.parametrize("name", ["llama", "opt", "gpt_neox"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_smoothing_is_not_taken_back_for_rounding(name, dtype):
    assert not unsmoothed(tiny(name).to(dtype))


def test_a_fold_that_changes_more_than_rounding_is_taken_back():
    """Gemma's norms multiply by 1 + weight, so that dividing the weight is no division of the output."""
    assert unsmoothed(made(tf.GemmaConfig(**SIZES, **HEADS, **STARTS, head_dim=8)).to(torch.bfloat16))


@pytest.mark.parametrize(
    "config",
    [
        tf.PhimoeConfig(**SIZES, **HEADS, **STARTS, num_local_experts=4),
        tf.JambaConfig(
            **SIZES, **HEADS, **STARTS, num_experts=4, expert_layer_period=2, expert_layer_offset=1,
            attn_layer_period=2, attn_layer_offset=0, mamba_d_state=4, mamba_dt_rank=4,
            use_mamba_kernels=False,
        ),
        tf.Qwen2MoeConfig(**SIZES, **HEADS, **STARTS, num_experts=4, moe_intermediate_size=16),
    ],
    ids=lambda config: config.model_type,
)  # fmt: skip
def test_routers_stay_as_they_are(config):
    model = made(config)
    routers = {name: p.clone() for name, p in model.named_parameters() if p.shape == (4, 32)}
    assert routers
    compress(model, [canonical("magnitude", {"sparsity": 0.5})], [])
    assert all(torch.equal(dict(model.named_parameters())[name], value) for name, value in routers.items())


def test_falcon_mambas_time_step_is_measured_behind_its_norm():
    config = tf.FalconMambaConfig(vocab_size=96, hidden_size=32, state_size=4, num_hidden_layers=1, **STARTS)
    model, seen = made(config), []
    mixer = blocks(model)[0].mixer
    rank = mixer.dt_proj.weight.shape[1]
    handle = mixer.x_proj.register_forward_hook(lambda _m, _a, output: seen.append(output[..., :rank]))
    for block in walk(model, sequences()):
        gram = block.measure(Hessian)["mixer.dt_proj"].matrix
    handle.remove()
    steps = [x[0].double() for x in seen]
    normed = [x / (x.square().mean(-1, keepdim=True) + config.mixer_rms_eps).sqrt() for x in steps]
    wanted = 2 / len(normed) * sum(x.t() @ x for x in normed)
    torch.testing.assert_close(gram.double(), wanted, rtol=1e-4, atol=1e-4)


def test_an_expert_that_the_first_sample_does_not_reach_is_measured():
    """Asked for with a matrix that comes before it, whose input seems to be the last one."""
    found = {}
    names = [f"mlp.experts.{number}.gate_up_proj" for number in range(16)]
    for before in ([], ["self_attn.o_proj"]):
        block = next(iter(walk(tiny("mixtral"), Calibration(tuple(sequences(12, 6))))))
        known = {linear.name: linear for linear in block.linears}
        for name in names:
            asked = [known[one] for one in [*before, name]]
            found[len(before), name] = block.measure(InputNorm, asked)[name].square
    for name in names:
        assert torch.equal(found[0, name], found[1, name]), name


def test_gradients_pass_through_rounded_inputs():
    def measured(recipe):
        model, calibration = tiny("llama"), Calibration(tuple(sequences()))
        compress(model, recipe, calibration)
        with gradients(model, calibration, "sum") as sums:
            return {x.name: sums.of(0, x).flatten() for x in linears(blocks(model)[0])}

    dense, rounded = measured([]), measured([canonical("llm.int8", {})])
    for name, gradient in dense.items():
        assert torch.cosine_similarity(gradient, rounded[name], dim=0) > 0.99, name


def test_dropping_blocks_shortens_all_lists_of_the_config(tmp_path, tokenizer):
    sizes = SIZES | {"num_hidden_layers": 6}
    starts = STARTS | {"eos_token_id": [2, 3, 4, 5, 6, 7]}  # as many as blocks, and not of blocks
    model = made(tf.SmolLM3Config(**sizes, **HEADS, **starts, no_rope_layer_interval=3))
    calibration = Calibration(())
    report = compress(model, [canonical("last-n", {"layers": 2})], calibration)
    assert len(model.config.no_rope_layers) == len(model.config.layer_types) == 4
    assert len(model.config.eos_token_id) == 6
    assert save(model, tokenizer, calibration, report, tmp_path / "out")["logit_difference"] < 1e-4


def test_dropping_blocks_is_refused_where_the_config_numbers_them():
    config = tf.JambaConfig(
        **SIZES, **HEADS, **STARTS, num_experts=4, use_mamba_kernels=False, attn_layer_period=2,
        attn_layer_offset=0, mamba_d_state=4, mamba_dt_rank=4,
    )  # fmt: skip
    check(made(config), [canonical("last-n", {"layers": 1})])  # all others keep their numbers
    with pytest.raises(KickError, match="layer_types follows from a block's number"):
        check(made(config), [canonical("shortgpt", {"layers": 1})])


@pytest.mark.parametrize("method", ["shortgpt", "llm-streamline"])
def test_each_form_that_dropping_may_give_is_run_once(method, monkeypatch):
    """Of alike blocks any two leave one form; where attention slides in every second block, two."""
    sizes, runs = SIZES | {"num_hidden_layers": 6}, []
    failure = twin._failure
    monkeypatch.setattr(twin, "_failure", lambda model: runs.append(model) or failure(model))
    for kind, count in ((tf.LlamaConfig, 1), (tf.Gemma2Config, 2)):
        runs.clear()
        check(made(kind(**sizes, **HEADS, **STARTS, head_dim=8)), [canonical(method, {"layers": 2})])
        assert len(runs) == count


@pytest.mark.parametrize("method", ["flap", "llm-pruner"])
def test_widths_that_the_config_cannot_say_are_refused_before_the_work(method):
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4}
    model = made(tf.LlamaConfig(**SIZES, **heads, **STARTS))
    with pytest.raises(KickError, match=r"3 of 4 groups of heads would be left.* 1, 2, 4 can be left"):
        check_saved(model, [canonical(method, {"share": 0.25})])
    check_saved(model, [canonical(method, {"share": 0.5})])
    options = {"share": 0.25} | ({"bias": False} if method == "flap" else {})  # Qwen3 has none in its MLP
    check_saved(made(tf.Qwen3Config(**SIZES, **heads, **STARTS)), [canonical(method, options)])


def test_a_failed_save_leaves_a_model_with_branches_as_it_was(tmp_path, tokenizer, monkeypatch):
    model, calibration = tiny("llama"), Calibration(tuple(sequences()))
    recipe = [canonical("magnitude", {"sparsity": 0.5}), canonical("eora", {"rank": 2})]
    report = compress(model, recipe, calibration)
    ids = sequences(1)[0]
    before = model(ids).logits

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save_pretrained", full)
    with pytest.raises(CellFailed, match="could not be written, nothing is left of it"):
        save(model, tokenizer, calibration, report, tmp_path / "out")
    assert torch.equal(model(ids).logits, before)
    monkeypatch.undo()
    save(model, tokenizer, calibration, report, tmp_path / "out")
    assert torch.equal(model(ids).logits, before)
    loaded = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(loaded(ids).logits, before, rtol=1e-3, atol=1e-3)


def test_what_was_quantized_elsewhere_still_counts_as_that_after_a_step():
    model = tiny("llama")
    names = [f"model.layers.{i}.{x.name}" for i, block in enumerate(blocks(model)) for x in linears(block)]
    model.kick_storages = {name: Storage(4) for name in names}
    before = footprint(model)["packed_linear_bytes"]
    after = footprint(model, {names[0]: Storage(16)})["packed_linear_bytes"]
    assert after - before == linears(blocks(model)[0])[0].weight.numel() * (16 - 4) // 8


def test_zeros_that_no_code_says_are_counted():
    """hqq's grid has a real-valued zero point: which weights are pruned has to be said beside the codes."""
    assert packed_bits(100, 10, Storage(2)) == 200
    assert packed_bits(100, 10, Storage(2, zero=False)) == 100 + 90 * 2
    assert packed_bits(100, 0, Storage(2, zero=False)) == 200
    recipe = [canonical("magnitude", {"sparsity": 0.1}), canonical("hqq", {"bits": 2, "group_size": 8})]
    report = compress(tiny("llama"), recipe, [])
    assert report["footprint"]["bits_per_weight"] == pytest.approx(1 + 0.9 * 2 + 32 / 8, abs=0.02)


def test_a_variance_beside_a_large_mean():
    x = 3000 + torch.randn(4000, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moments = Moments(5)
    for part in x.float().split(500):
        moments.add(part)
    torch.testing.assert_close(moments.variance.double(), x.float().double().var(0), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("admm", {"sparsity": "2:4", "schedule": "cubic"}, "grows a share"),
        ("magnitude", {"sparsity": 0.5, "per": "row", "ties": "authors"}, "whole matrices"),
        ("magnitude", {"sparsity": 0.5, "per": "global", "ties": "authors"}, "whole matrices"),
    ],
)
def test_options_that_would_do_nothing_are_refused(method, options, words):
    with pytest.raises(KickError, match=words):
        check(tiny("llama"), [canonical(method, options)])


def test_shortgpt_names_a_block_that_is_not_finite():
    model = tiny("llama")
    blocks(model)[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(CellFailed, match="block 1 has NaN"):
        compress(model, [canonical("shortgpt", {"layers": 1})], sequences())


def test_rounded_weights_have_no_negative_zero():
    model = tiny("llama")
    compress(model, [canonical("gptq", {"bits": 2})], sequences())
    for block in blocks(model):
        for linear in linears(block):
            assert not (linear.weight.eq(0) & linear.weight.signbit()).any()


def test_experts_without_tokens_are_noted_also_from_statistics_on_disk(tmp_path):
    def noted():
        calibration = Calibration(tuple(sequences(1, 4)), "dense", memory=tmp_path)
        compress(tiny("mixtral"), [canonical("wanda", {"sparsity": 0.5})], calibration)
        return [note for note in calibration.notes if note["kind"] == "expert saw no token"]

    first = noted()
    assert first
    assert noted() == first


def test_a_share_below_what_was_pruned_before_is_no_failure():
    name = "model.layers.0.mlp.up_proj"
    steps = [
        canonical("magnitude", {"sparsity": 0.7}),
        canonical("wanda", {"sparsity": 0.75, "sparsities": {name: 0.6}}),
    ]
    model = tiny("llama")
    compress(model, steps, sequences())
    weight = blocks(model)[0].mlp.up_proj.weight
    assert int((weight == 0).sum()) >= int(0.7 * weight.numel())


def test_norms_over_all_heads_forbid_taking_heads_out():
    model = made(tf.Olmo2Config(**SIZES, **HEADS, **STARTS))
    with pytest.raises(KickError, match="norms all heads together"):
        check(model, [canonical("flap", {"share": 0.5})])
