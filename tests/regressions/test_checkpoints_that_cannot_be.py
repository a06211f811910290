"""What cannot be saved is refused before the work, by an empty twin of the result; what can be is saved.

Before, `kick compress` did all of its work and then found that the checkpoint gives other logits, or ended in
a traceback. The right values: a twin that is passed is saved with a difference of 0.0, one that is refused is
not the model when it is saved all the same.
"""

import json

import pytest
import torch
import transformers as tf

from kick import cli
from kick.compress import canonical, check, check_saved, compress
from kick.compress.checkpoint import save
from kick.compress.context import Calibration
from kick.errors import CellFailed, KickError
from kick.matrix.load import parse
from kick.matrix.plan import plan
from kick.matrix.rates import Rates
from kick.matrix.sources import own_sources
from kick.model import load, resolve
from tests.regressions.gguf_files import BASE, SPECIAL, made

SIX = {**BASE, "num_hidden_layers": 6}
HEADS = {**SIX, "head_dim": 8}
EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
GPT2 = {**SPECIAL, "vocab_size": 512, "n_embd": 32, "n_layer": 6, "n_head": 4, "n_positions": 128}
CONFIGS = {
    "llama": lambda: tf.LlamaConfig(**HEADS),
    "mistral": lambda: tf.MistralConfig(**HEADS),
    "qwen2": lambda: tf.Qwen2Config(**SIX),
    "gemma3": lambda: tf.Gemma3TextConfig(**HEADS, sliding_window=16),
    "smollm3": lambda: tf.SmolLM3Config(**SIX),
    "gpt2": lambda: tf.GPT2Config(**GPT2, initializer_range=0.2),
    "gpt2 scaled by number": lambda: tf.GPT2Config(
        **GPT2, initializer_range=0.2, scale_attn_by_inverse_layer_idx=True
    ),
    "qwen2moe": lambda: tf.Qwen2MoeConfig(
        **SIX, **EXPERTS, decoder_sparse_step=2, num_experts=4, shared_expert_intermediate_size=16
    ),
    "deepseek": lambda: tf.DeepseekV3Config(
        **SIX, **EXPERTS, first_k_dense_replace=2, n_routed_experts=4, n_group=1, topk_group=1,
        kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8,
        n_shared_experts=1,
    ),
    "diffllama": lambda: tf.DiffLlamaConfig(**SIX),
    "gemma3n": lambda: tf.Gemma3nTextConfig(
        **{**HEADS, "intermediate_size": [64] * 6}, sliding_window=16, num_kv_shared_layers=2,
        layer_types=["sliding_attention", "full_attention"] * 3, vocab_size_per_layer_input=512,
        hidden_size_per_layer_input=8, laurel_rank=8, activation_sparsity_pattern=[0.0] * 6,
        altup_num_inputs=2,
    ),
}  # fmt: skip
DROPS = ("shortgpt", {"layers": 2})


def ids(length: int, seed: int) -> torch.Tensor:
    return torch.randint(3, 512, (1, length), generator=torch.Generator().manual_seed(seed))


def saved(model, recipe, out):
    calibration = Calibration(tuple(ids(24, seed) for seed in range(2)))
    report = compress(model, recipe, calibration)
    return save(model, load(resolve("smoke"))[1], calibration, report, out)


@pytest.mark.parametrize(
    ("name", "method", "options"),
    [
        ("llama", "flap", {"share": 0.5}),
        ("mistral", "flap", {"share": 0.5, "bias": False}),
        ("qwen2", "llm-pruner", {"share": 0.5}),
        ("smollm3", "flap", {"share": 0.5}),
        ("gemma3", "last-n", {"layers": 1}),
        ("gemma3", *DROPS),
        ("gpt2", *DROPS),
        ("deepseek", "last-n", {"layers": 2}),
        ("qwen2moe", "last-n", {"layers": 1}),
        ("gpt2 scaled by number", "last-n", {"layers": 1}),
    ],
)
def test_what_the_twin_passes_is_saved(name, method, options, tmp_path):
    model, recipe = made(CONFIGS[name]()), [canonical(method, options)]
    check(model, recipe)
    check_saved(model, recipe)
    assert saved(model, recipe, tmp_path / "out")["logit_difference"] == 0.0


@pytest.mark.parametrize(
    ("name", "method", "options", "word"),
    [
        ("mistral", "flap", {"share": 0.5}, r"no model\.layers\.0\.self_attn\.o_proj\.bias.*flap with `bias"),
        ("qwen2", "flap", {"share": 0.5}, r"flap with `bias: false`"),
        ("qwen2moe", *DROPS, r"model\.layers\.0\.mlp\.gate"),
        ("deepseek", *DROPS, r"model\.layers\.1\.mlp\.experts"),
        ("deepseek", "laco", {}, r"model\.layers\.1\.mlp\.experts"),
        ("diffllama", *DROPS, "lambda_init"),
        ("gpt2 scaled by number", *DROPS, "scal"),
    ],
)  # fmt: skip
def test_what_the_config_cannot_say_is_refused_before_the_work(name, method, options, word):
    model, recipe = made(CONFIGS[name]()), [canonical(method, options)]
    check(model, recipe)  # it can be measured
    with pytest.raises(KickError, match=word):
        check_saved(model, recipe)


@pytest.fixture
def stored(tmp_path):
    """Save a tiny model with a tokenizer; its folder."""

    def store(name):
        made(CONFIGS[name]()).save_pretrained(tmp_path / "model")
        load(resolve("smoke"))[1].save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return store


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("mistral", ["--method", "flap", "--share", "0.5"], "flap with `bias: false`"),
        ("deepseek", ["--method", "shortgpt", "--layers", "2"], "model.layers.1.mlp.experts"),
        ("gpt2", ["--method", "wanda", "--sparsity", "0.5"], "length 256, but the model has 128 positions"),
    ],
)
def test_the_command_refuses_it_before_the_work(name, arguments, words, stored, tmp_path, capsys):
    """Both of its ways, through memory and block by block, ask what the tests above ask."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["compress", str(stored(name)), *arguments, "--out", str(tmp_path / "out")])
    said = " ".join(capsys.readouterr().err.split())
    assert ended.value.code == 2, said
    assert words in said
    assert not list((tmp_path / "out").rglob("*.safetensors"))


@pytest.mark.parametrize(("name", "method", "options"), [("mistral", "flap", {"share": 0.5})])
def test_what_the_twin_refuses_would_be_another_model(name, method, options, tmp_path):
    with pytest.raises(CellFailed, match="differ"):
        saved(made(CONFIGS[name]()), [canonical(method, options)], tmp_path / "out")


@pytest.mark.parametrize(("method", "options"), [("last-n", {"layers": 1}), DROPS])
def test_what_would_not_even_run_is_refused_for_measuring_too(method, options):
    """Gemma 3n's inputs of each layer are cut for all of its layers."""
    with pytest.raises(KickError, match=r"does not run in the form.*shape"):
        check(made(CONFIGS["gemma3n"]()), [canonical(method, options)])


@pytest.mark.parametrize("step", [("wanda", {"sparsity": 0.5}), ("rtn", {"bits": 4, "group_size": 8})])
def test_a_generation_config_that_only_loads_is_saved_as_it_was(step, tmp_path):
    """Vicuna's and Llama 2's: a temperature without do_sample, which transformers refuses to save."""
    source = tmp_path / "vicuna"
    made(CONFIGS["llama"]()).save_pretrained(source)
    load(resolve("smoke"))[1].save_pretrained(source)
    file = source / "generation_config.json"
    stored = json.loads(file.read_text()) | {"temperature": 0.9, "top_p": 0.6}
    file.write_text(json.dumps(stored))
    model, _ = load(resolve(str(source)))
    with pytest.raises(ValueError, match="GenerationConfig is invalid"):
        model.generation_config.save_pretrained(tmp_path)
    saved(model, [canonical(*step)], tmp_path / "out")
    again = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert {name: again.get(name) for name in stored} == stored
    assert model.generation_config.temperature == 0.9
    assert load(resolve(str(tmp_path / "out")))[0].generation_config.temperature == 0.9


# ------------------------------------------------------------------------------- positions


def test_calibration_longer_than_the_positions_is_refused():
    model = made(CONFIGS["gpt2"]())
    with pytest.raises(KickError, match="length 256, but the model has 128 positions"):
        compress(model, [canonical("wanda", {"sparsity": 0.5})], [ids(256, 0)])


def test_the_plan_refuses_calibration_longer_than_the_positions(tmp_path):
    folder = tmp_path / "gpt2-128"
    made(CONFIGS["gpt2"]()).save_pretrained(folder)
    load(resolve("smoke"))[1].save_pretrained(folder)
    text = f"""
name: m
model: {folder}
tasks: [kick_mini_perplexity]
calibration: {{sequences: 2, length: 256}}
variants: [{{method: wanda, sparsity: 0.5}}]
"""
    with pytest.raises(KickError, match=r"m.yaml:5: .*length 256, but the model has 128 positions"):
        plan(parse(text, "m.yaml"), sources=own_sources(), rates=Rates())
