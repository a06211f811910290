"""Every quantizer that transformers has: read as its file means, or refused for what it lacks.

Here are those that need no other package; `make interop-test` has the others (docs/interop.md).
"""

import importlib.util
import re
from functools import partial

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

import kick
from kick import cli
from kick.errors import KickError
from kick.model import blocks, linears, load, resolve
from kick.model.footprint import footprint
from kick.sweep.run import RunOptions
from tests.regressions import quantized_files as files
from tests.regressions.gguf_files import BASE, made

CONFIG = {**BASE, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16, "num_hidden_layers": 1}
IDS = torch.arange(3, 40)[None]


def answered(folder, out):
    """A cell of the model: its score, which is there."""
    matrix = {
        "name": "quantized", "model": str(folder), "tasks": ["kick_mini_mcq"], "limit": 2, "replicas": [],
        "variants": ["dense"],
    }  # fmt: skip
    ran = kick.run(matrix, out=out, options=RunOptions(executor="inline"))
    assert (ran.done, ran.failed) == (1, 0)
    return ran


@pytest.mark.parametrize("form", files.FORMS)
def test_a_format_is_read_as_its_file_means(form, tmp_path):
    writer, quantization = files.FORMS[form]
    source = made(tf.LlamaConfig(**CONFIG))
    bits = files.rewrite(source, tmp_path / "made", writer, quantization)
    model, _ = load(resolve(str(tmp_path / "made")))
    torch.testing.assert_close(model(IDS).logits, source(IDS).logits)
    found, dense = footprint(model), footprint(source)
    assert found["linear_parameters"] == dense["linear_parameters"]
    assert found["parameters"] == dense["parameters"]
    assert found["bits_per_weight"] == pytest.approx(bits / dense["linear_parameters"], abs=1e-5)
    answered(tmp_path / "made", tmp_path / "out")


class Rounded(nn.Module):
    """BitNet's matrix by its paper: activations of a token in 8 bits, weights -1, 0 and 1 times a scale."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, given):
        step = given.abs().amax(-1, keepdim=True) / 127
        return (given / step).round().clamp(-128, 127) * step @ self.weight.T


@pytest.mark.parametrize("kind", ["bitlinear", "autobitlinear"])
def test_bitnet_rounds_activations_and_is_counted_in_two_bits(kind, tmp_path):
    source = made(tf.LlamaConfig(**CONFIG))
    quantization = {"quant_method": "bitnet", "linear_class": kind, "quantization_mode": "offline"}
    files.rewrite(source, tmp_path / "made", partial(files.bitnet, inverse=kind == "bitlinear"), quantization)
    dense = footprint(source)
    for block in blocks(source):
        for linear in linears(block):
            block.set_submodule(linear.name, Rounded(linear.weight.clone()))
    model, _ = load(resolve(str(tmp_path / "made")))
    torch.testing.assert_close(model(IDS).logits, source(IDS).logits, rtol=1e-3, atol=1e-3)
    found = footprint(model)
    assert found["linear_parameters"] == dense["linear_parameters"]
    assert found["bits_per_weight"] == pytest.approx(2, rel=0.01)
    answered(tmp_path / "made", tmp_path / "out")


def test_mxfp4_experts_of_gpt_oss(tmp_path):
    config = tf.GptOssConfig(
        **{**CONFIG, "num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 64}
    )
    source = made(config)
    folder = tmp_path / "made"
    source.save_pretrained(folder)
    load(resolve("smoke"))[1].save_pretrained(folder)
    stored, generator = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(0)
    for name in [name for name in stored if name.endswith(("gate_up_proj", "down_proj"))]:
        tensors, values = files.mxfp4(stored.pop(name), generator)
        source.get_parameter(name).copy_(values)
        stored |= {f"{name}_{leaf}": tensor for leaf, tensor in tensors.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    files.declare(folder, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})
    model, _ = load(resolve(str(folder)))
    torch.testing.assert_close(model(IDS).logits, source(IDS).logits)
    found, dense = footprint(model), footprint(source)
    experts = sum(p.numel() for name, p in source.named_parameters() if name.endswith("_proj"))
    attention = dense["linear_parameters"] - experts
    assert found["linear_parameters"] == dense["linear_parameters"]
    right = (experts * (4 + 8 / 32) + attention * 16) / dense["linear_parameters"]
    assert found["bits_per_weight"] == pytest.approx(right, abs=1e-5)
    answered(tmp_path / "made", tmp_path / "out")


def test_experts_that_are_merged_as_they_are_read_are_counted_by_their_file(tmp_path):
    """Each expert has three matrices of its own in the file, and is two slices in the model."""
    config = tf.Qwen3MoeConfig(
        **CONFIG, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64, decoder_sparse_step=1
    )
    source = made(config)
    source.save_pretrained(tmp_path / "made")
    load(resolve("smoke"))[1].save_pretrained(tmp_path / "made")
    stored, bits, weights = load_file(tmp_path / "made/model.safetensors"), 0, 0
    for name in [name for name in stored if name.endswith("_proj.weight")]:
        weight = stored.pop(name)
        tensors, values = files.fp8(weight)
        stored |= {name.removesuffix("weight") + leaf: tensor for leaf, tensor in tensors.items()}
        bits, weights = bits + 8 * sum(one.nbytes for one in tensors.values()), weights + weight.numel()
        weight.copy_(values)
    save_file(stored, tmp_path / "made/model.safetensors", metadata={"format": "pt"})
    files.declare(tmp_path / "made", files.FORMS["fp8"][1] | {"modules_to_not_convert": ["lm_head", "gate"]})
    model, _ = load(resolve(str(tmp_path / "made")))
    found = footprint(model)
    assert found["linear_parameters"] == weights
    assert found["bits_per_weight"] == pytest.approx(bits / weights, abs=1e-5)
    answered(tmp_path / "made", tmp_path / "out")


# ------------------------------------------------------------------------------- refused

READ = {"fp8", "mxfp8", "metal", "gemma", "bitnet", "mxfp4", "compressed-tensors", "gguf"}
# What a checkpoint's config says -> what is said to be missing where only kick's own packages are installed
REFUSED = {
    "awq": ({"bits": 4, "group_size": 32}, "requires gptqmodel"),
    "gptq": ({"bits": 4, "group_size": 32}, "optimum"),
    "bitsandbytes_4bit": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "requires .*bitsandbytes"),
    "bitsandbytes_8bit": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "requires .*bitsandbytes"),
    "aqlm": ({}, "needs a CUDA GPU and the package aqlm"),
    "quark": ({}, "requires the `quark` library|[Qq]uark"),
    "fouroversix": ({}, "needs the package fouroversix; it is not installed"),
    "auto-round": ({"bits": 4, "group_size": 32}, "requires auto-round"),
    "sinq": ({}, "needs the package sinq; it is not installed"),
    "torchao": ({"quant_type": "int8_weight_only"}, "torchao"),
    "quanto": ({"weights": "int8"}, "reads no checkpoint of quanto"),
    "hqq": ({}, "reads no checkpoint of hqq"),
    "nvfp4": ({}, "pre-quantized NVFP4 checkpoints is not supported"),
    "eetq": ({}, "needs a CUDA GPU and the package kernels; there is no GPU here"),
    "fbgemm_fp8": ({}, "needs a CUDA GPU and the package fbgemm-gpu-genai"),
    "fp_quant": ({}, "needs a CUDA GPU and the packages fp-quant and qutlass"),
    "higgs": ({}, "needs a CUDA GPU and the packages flute-kernel and fast-hadamard-transform"),
    "spqr": ({}, "needs a CUDA GPU and the package spqr-quant"),
    "vptq": ({}, "needs a CUDA GPU and the package vptq"),
}
PACKAGES = {
    "awq": "gptqmodel", "gptq": "gptqmodel", "bitsandbytes_4bit": "bitsandbytes",
    "bitsandbytes_8bit": "bitsandbytes", "auto-round": "auto_round", "fouroversix": "fouroversix",
}  # fmt: skip


def test_every_quantizer_of_transformers_is_in_one_of_the_lists():
    assert set(AUTO_QUANTIZER_MAPPING) == READ | set(REFUSED)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_missing_is_said_before_a_model_is_loaded(name, tmp_path, capsys):
    quantization, word = REFUSED[name]
    if importlib.util.find_spec(PACKAGES.get(name, name)):
        pytest.skip(f"{name} is installed here")
    if "GPU" in word and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    made(tf.LlamaConfig(**CONFIG)).save_pretrained(tmp_path)
    load(resolve("smoke"))[1].save_pretrained(tmp_path)
    files.declare(tmp_path, {"quant_method": name} | quantization)
    (tmp_path / "m.yaml").write_text(
        f"name: m\nmodel: {tmp_path}\ntasks: [kick_mini_mcq]\nvariants: [dense]\n"
    )
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", str(tmp_path / "m.yaml")])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert re.search(word, " ".join(said.split())), said
    assert "Traceback" not in said


def test_a_checkpoint_of_optimum_quanto_itself_is_refused_by_name(tmp_path):
    """Its config.json says nothing of it; a file beside it does."""
    made(tf.LlamaConfig(**CONFIG)).save_pretrained(tmp_path)
    (tmp_path / "quanto_qmap.json").write_text("{}")
    with pytest.raises(KickError, match="quantized with quanto, and transformers reads no checkpoint"):
        resolve(str(tmp_path))
