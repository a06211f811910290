"""A GGUF file is its source model, or it is refused: never half of it, never another's positions.

The right values are the source model's own logits in transformers. Before, tensors that transformers does not
map were filled with random weights, and rope scaling, rope bases and parts of a split file were dropped.
"""

import shutil

import gguf
import numpy as np
import pytest
import torch
import transformers as tf
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from kick.errors import KickError
from kick.model import load, resolve
from kick.model.footprint import footprint
from tests.regressions.gguf_files import (
    BASE,
    SPECIAL,
    as_bloom,
    as_falcon,
    as_llama,
    as_mamba,
    keys_of,
    logits,
    made,
    plus_one,
    tensors_of,
    transposed,
    write,
)

OTHER = {**SPECIAL, "vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.2}
LLAMA = {**BASE, "head_dim": 8}
THETA = {"rope_theta": 10000.0}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LN = "attention.layer_norm_epsilon"
EXPERT_KEYS = {"expert_count": 4, "expert_used_count": 2}
SHORT, LONG = [1.0, 1.1, 1.3, 1.7], [2.0, 2.2, 3.1, 4.5]
# name -> (architecture of the file, source's config, metadata beside the usual, how tensors are rearranged)
MODELS = {
    "llama": ("llama", tf.LlamaConfig(**LLAMA), {"rope.dimension_count": 8, "vocab_size": 512}, as_llama),
    "wide heads, tied": (
        "llama", tf.LlamaConfig(**{**LLAMA, "head_dim": 16}, tie_word_embeddings=True),
        {"rope.dimension_count": 16, "attention.key_length": 16, "attention.value_length": 16}, as_llama,
    ),
    "biases": ("llama", tf.LlamaConfig(**LLAMA, attention_bias=True, mlp_bias=True), {}, as_llama),
    "linear": (
        "llama", tf.LlamaConfig(**LLAMA, rope_parameters={**THETA, "rope_type": "linear", "factor": 4.0}),
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, as_llama,
    ),
    "a factor without a type": (
        "llama", tf.LlamaConfig(**LLAMA, rope_parameters={**THETA, "rope_type": "linear", "factor": 2.0}),
        {"rope.scaling.factor": 2.0}, as_llama,
    ),
    "mixtral": (
        "llama", tf.MixtralConfig(**BASE, **THETA, num_local_experts=4, num_experts_per_tok=2), EXPERT_KEYS,
        as_llama,
    ),
    "qwen2": ("qwen2", tf.Qwen2Config(**BASE), {}, None),
    "yarn": (
        "qwen2",
        tf.Qwen2Config(**BASE, rope_parameters={
            "rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32,
        }),
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 32},
        None,
    ),
    "qwen3": (
        "qwen3", tf.Qwen3Config(**LLAMA), {"attention.key_length": 8, "attention.value_length": 8}, None
    ),
    "qwen2moe": (
        "qwen2moe", tf.Qwen2MoeConfig(**BASE, **EXPERTS, shared_expert_intermediate_size=48),
        {**EXPERT_KEYS, "expert_feed_forward_length": 16, "expert_shared_feed_forward_length": 48}, None,
    ),
    "qwen3moe": (
        "qwen3moe", tf.Qwen3MoeConfig(**LLAMA, **EXPERTS, norm_topk_prob=True),
        {**EXPERT_KEYS, "expert_feed_forward_length": 16, "attention.key_length": 8}, None,
    ),
    "phi3": (
        "phi3", tf.Phi3Config(**BASE, original_max_position_embeddings=256),
        {"rope.dimension_count": 8, "attention.sliding_window": 0,
         "rope.scaling.original_context_length": 256}, None,
    ),
    "stablelm": (
        "stablelm", tf.StableLmConfig(**BASE, use_qkv_bias=True, rope_theta=12345.0),
        {LN: 1e-5, "rope.dimension_count": 2, "use_parallel_residual": False}, None,
    ),
    "starcoder2": ("starcoder2", tf.Starcoder2Config(**BASE, rope_theta=999999.0), {LN: 1e-5}, None),
    "nemotron": (
        "nemotron", tf.NemotronConfig(**BASE),
        {LN: 1e-5, "rope.dimension_count": 4, "rope.scaling.type": "none", "vocab_size": 512}, plus_one,
    ),
    "gemma": ("gemma", tf.GemmaConfig(**LLAMA), {"attention.key_length": 8}, plus_one),
    "gemma2": (
        "gemma2", tf.Gemma2Config(**LLAMA, query_pre_attn_scalar=8, sliding_window=16),
        {"attention.key_length": 8, "attention.sliding_window": 16, "attn_logit_softcapping": 50.0,
         "final_logit_softcapping": 30.0}, plus_one,
    ),
    "gemma3": (
        "gemma3",
        tf.Gemma3TextConfig(**{**LLAMA, "num_hidden_layers": 7}, query_pre_attn_scalar=8, sliding_window=16,
            rope_parameters={"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}}),
        {"attention.key_length": 8, "attention.sliding_window": 16, "rope.scaling.type": "linear",
         "rope.scaling.factor": 8.0}, plus_one,
    ),
    "gpt2": (
        "gpt2",
        tf.GPT2Config(**SPECIAL, vocab_size=512, n_embd=32, n_layer=2, n_head=4, n_positions=256,
            initializer_range=0.2),
        {LN: 1e-5, "feed_forward_length": 128, "attention.head_count_kv": None}, transposed,
    ),
    "bloom": (
        "bloom", tf.BloomConfig(**{**OTHER, "n_layer": 2, "n_head": 4}),
        {LN: 1e-5, "feed_forward_length": 128}, as_bloom,
    ),
    "falcon 7B": (
        "falcon", tf.FalconConfig(**OTHER, num_attention_heads=4),
        {LN: 1e-5, "tensor_data_layout": "jploski", "attention.head_count_kv": 1, "context_length": 2048,
         "feed_forward_length": 128}, as_falcon(1),
    ),
    "falcon 40B": (
        "falcon",
        tf.FalconConfig(**OTHER, num_attention_heads=4, num_kv_heads=2, new_decoder_architecture=True),
        {LN: 1e-5, "tensor_data_layout": "jploski", "attention.head_count_kv": 2, "context_length": 2048,
         "feed_forward_length": 128}, as_falcon(2),
    ),
    "lfm2": (
        "lfm2", tf.Lfm2Config(**BASE, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False),
        {"attention.layer_norm_rms_epsilon": 1e-5, "attention.head_count_kv": [0, 2], "shortconv.l_cache": 3},
        lambda name, array: array.squeeze(1) if ".conv.conv." in name else array,
    ),
}  # fmt: skip


def converted(file):
    return load(resolve(str(file)))[0]


def same(file, source, length: int = 48) -> None:
    model = converted(file)
    torch.testing.assert_close(logits(model, length), logits(source, length), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_file_is_its_source_model(name, tmp_path):
    architecture, config, keys, change = MODELS[name]
    source = made(config)
    change = change(config) if change is as_llama else (change or (lambda _name, array: array))
    tensors = tensors_of(source, architecture, change)
    same(write(tmp_path / "model.gguf", architecture, keys_of(config, **keys), tensors), source)


def test_mamba_is_its_source_model(tmp_path):
    config = tf.MambaConfig(**OTHER, state_size=4)
    source = made(config)
    keys = {
        "block_count": 2, "context_length": 2**20, "embedding_length": 32, "feed_forward_length": 0,
        "attention.head_count": 0, "attention.layer_norm_rms_epsilon": 1e-5, "ssm.conv_kernel": 4,
        "ssm.inner_size": 64, "ssm.state_size": 4, "ssm.time_step_rank": 2, "ssm.dt_b_c_rms": False,
    }  # fmt: skip
    tensors = tensors_of(source, "mamba", as_mamba)
    same(write(tmp_path / "model.gguf", "mamba", keys, tensors), source)


def llama(tmp_path, more=(), config=None, keys=None, **options):
    """A Llama's file; tensors of `more` replace those of the same name, or come with them; None: left out."""
    config = config or tf.LlamaConfig(**LLAMA)
    source = made(config)
    tensors = dict(tensors_of(source, "llama", as_llama(config))) | dict(more)
    kept = [(name, array) for name, array in tensors.items() if array is not None]
    file = write(tmp_path / "model.gguf", "llama", keys_of(config, **(keys or {})), kept, **options)
    return file, source


@pytest.mark.parametrize("original", [64, 8192])
def test_llama3_scaling_is_read_from_its_tensor(original, tmp_path):
    rope = {
        "rope_theta": 500000.0, "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": original,
    }  # fmt: skip
    config = tf.LlamaConfig(**{**LLAMA, "head_dim": 32}, rope_parameters=rope)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1 / (500000.0 ** (torch.arange(0, 32, 2) / 32))
    keys = {"rope.dimension_count": 32, "attention.key_length": 32}
    file, source = llama(tmp_path, [("rope_freqs.weight", (plain / scaled).numpy())], config, keys)
    same(file, source, 200)


def test_any_factors_of_frequencies_are_read(tmp_path):
    """Also such as no setting of Llama 3 gives: by frequencies divided by hand."""
    factors = np.array([1.0, 3.0, 2.0, 5.0], np.float32)
    file, source = llama(tmp_path, [("rope_freqs.weight", factors)])
    source.model.rotary_emb.inv_freq /= torch.from_numpy(factors)
    same(file, source)


def test_longrope_has_short_and_long_factors(tmp_path):
    rope = {**THETA, "rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG, "factor": 8.0}
    config = tf.Phi3Config(
        **BASE, original_max_position_embeddings=32,
        rope_parameters={**rope, "original_max_position_embeddings": 32},
    )  # fmt: skip
    source = made(config)
    factors = {"rope_factors_short.weight": np.array(SHORT), "rope_factors_long.weight": np.array(LONG)}
    attention = float(np.sqrt(1 + np.log(8) / np.log(32)))
    keys = {"rope.scaling.original_context_length": 32, "rope.scaling.attn_factor": attention}
    tensors = [*tensors_of(source, "phi3"), *factors.items()]
    file = write(tmp_path / "model.gguf", "phi3", keys_of(config, **keys), tensors)
    same(file, source, 20)
    same(file, source, 100)


QUANTIZED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16", "TQ1_0", "TQ2_0", "MXFP4"]


@pytest.mark.parametrize("name", QUANTIZED)
def test_every_type_that_gguf_writes_is_read_and_counted(name, tmp_path):
    """Weights are gguf-py's own dequantization; sizes are the bytes of the file's tensors."""
    kind = gguf.GGMLQuantizationType[name]
    config = tf.LlamaConfig(**{**LLAMA, "hidden_size": 256, "intermediate_size": 256, "head_dim": 64})
    file, source = llama(tmp_path, config=config, quantization=kind)
    for layer in source.model.layers:
        for part in (layer.self_attn.v_proj, layer.mlp.gate_proj):
            part.weight.data = torch.from_numpy(
                gguf.dequantize(gguf.quantize(part.weight.numpy(), kind), kind)
            )
    model = converted(file)
    for mine, right in zip(model.model.layers, source.model.layers, strict=True):
        assert torch.equal(mine.self_attn.v_proj.weight, right.self_attn.v_proj.weight)
        assert torch.equal(mine.mlp.gate_proj.weight, right.mlp.gate_proj.weight)
    size = footprint(model)
    block, stored = gguf.GGML_QUANT_SIZES[kind]
    assert size["bits_per_weight"] == pytest.approx(8 * stored / block)
    assert size["packed_bytes"] == sum(tensor.n_bytes for tensor in gguf.GGUFReader(str(file)).tensors)


def test_experts_and_embeddings_count_as_the_file_has_them(tmp_path):
    architecture, config, keys, _ = MODELS["qwen3moe"]
    source = made(tf.Qwen3MoeConfig(**{**config.to_dict(), "moe_intermediate_size": 32}))
    keys = keys_of(source.config, **keys) | {"expert_feed_forward_length": 32}
    kind = gguf.GGMLQuantizationType.Q8_0
    file = write(tmp_path / "model.gguf", architecture, keys, tensors_of(source, architecture), kind)
    size = footprint(converted(file))
    assert size["bits_per_weight"] == 8.5
    assert size["packed_bytes"] == sum(tensor.n_bytes for tensor in gguf.GGUFReader(str(file)).tensors)


# ------------------------------------------------------------------------------- parts


def in_parts(tmp_path, said: bool = True):
    """A model in two files, the second with half of its tensors, as gguf-split writes them."""
    config = tf.LlamaConfig(**LLAMA)
    source = made(config)
    tensors = tensors_of(source, "llama", as_llama(config))
    half = len(tensors) // 2
    for number, some in enumerate((tensors[:half], tensors[half:])):
        split = {"split.no": number, "split.count": 2, "split.tensors.count": len(tensors)} if said else {}
        keys = keys_of(config) if number == 0 else {}
        write(tmp_path / f"m-0000{number + 1}-of-00002.gguf", "llama", {**keys, **split}, some)
    return source


@pytest.mark.parametrize("number", [1, 2])
def test_all_parts_of_a_split_file_are_read(number, tmp_path):
    source = in_parts(tmp_path)
    same(tmp_path / f"m-0000{number}-of-00002.gguf", source)


@pytest.mark.parametrize("said", [True, False])
def test_a_part_that_is_missing_is_named(said, tmp_path):
    in_parts(tmp_path, said)
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(KickError, match=r"m-00002-of-00002\.gguf is not beside it"):
        resolve(str(tmp_path / "m-00001-of-00002.gguf"))


def test_a_part_by_another_name_is_no_model(tmp_path):
    in_parts(tmp_path)
    shutil.copy(tmp_path / "m-00001-of-00002.gguf", tmp_path / "whole.gguf")
    with pytest.raises(KickError, match="part 1 of 2; expected part 1 of 1"):
        resolve(str(tmp_path / "whole.gguf"))


def test_a_changed_part_is_converted_again(tmp_path):
    in_parts(tmp_path)
    first = resolve(str(tmp_path / "m-00001-of-00002.gguf"))
    config = tf.LlamaConfig(**LLAMA)
    source = made(config)
    tensors = tensors_of(source, "llama", as_llama(config))
    split = {"split.no": 1, "split.count": 2, "split.tensors.count": len(tensors)}
    changed = [(name, array * 2) for name, array in tensors[len(tensors) // 2 :]]
    write(tmp_path / "m-00002-of-00002.gguf", "llama", split, changed)
    assert resolve(str(tmp_path / "m-00001-of-00002.gguf")).digest != first.digest


# ------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("tensors", "keys", "word"),
    [
        ([("blk.1.ffn_up.weight", None)], {}, r"no tensor for model\.layers\.1\.mlp\.up_proj\.weight"),
        ([("output_norm.weight", None)], {}, r"no tensor for model\.norm\.weight"),
        ([("token_embd.weight", None)], {}, r"no tensor token_embd\.weight"),
        ([("blk.0.strange.weight", np.ones((2, 2)))], {}, r"blk\.0\.strange\.weight, which has no place"),
        ([("blk.2.attn_v.weight", np.ones((16, 32)))], {}, r"blk\.2\.attn_v\.weight, which has no place"),
        ([("blk.0.ffn_up.weight", np.ones((48, 32)))], {}, r"ffn_up\.weight of shape \(48, 32\)"),
        ([], {"new_setting": 7}, r"llama\.new_setting = 7, which kick does not know"),
        ([], {"attention.causal": False}, r"attention\.causal = False, expected True"),
        ([], {"attention.value_length": 4, "attention.key_length": 8}, "keys of 8 and values of 4"),
        ([], {"rope.dimension_count": 4}, "rotates 4 of 8 channels"),
        ([], {"rope.scaling.type": "dynamic"}, r"rope\.scaling\.type = 'dynamic'"),
        ([], {"rope.scaling.yarn_attn_factor": 2.0}, r"yarn_attn_factor = 2\.0"),
        ([], {"rope.scaling.attn_factor": 2.0}, r"attn_factor = 2\.0"),
        ([("rope_freqs.weight", np.ones(3))], {}, r"rope_freqs\.weight of shape \(3,\), expected \(4,\)"),
        ([("rope_factors_long.weight", np.ones(4))], {}, r"no tensor rope_factors_short\.weight"),
        ([], {"vocab_size": 100}, "vocab_size 100, but token_embd.weight has 512 rows"),
        ([], {"general.type": "adapter"}, "'adapter'"),
        ([], {"attention.head_count": None}, r"no metadata key llama\.attention\.head_count"),
        ([], {"split.tensors.count": 99}, "21 tensors, expected 99"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_right_is_refused_by_name(tensors, keys, word, tmp_path):
    file, _ = llama(tmp_path, tensors, keys=keys)
    with pytest.raises(KickError, match=word):
        resolve(str(file))


@pytest.mark.parametrize("architecture", ["t5", "gpt-oss", "gemma4", "deci", "command-r"])
def test_architectures_that_are_not_read_are_named(architecture, tmp_path):
    file = write(tmp_path / "model.gguf", architecture, {"block_count": 1}, [("a", np.ones((2, 2)))])
    with pytest.raises(KickError, match=f"the architecture '{architecture}', which kick cannot read"):
        resolve(str(file))


@pytest.mark.parametrize("size", [10, 3000])
def test_a_damaged_file_is_said_to_be_one(size, tmp_path):
    file, _ = llama(tmp_path)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(KickError, match="cannot be read as GGUF"):
        resolve(str(file))
