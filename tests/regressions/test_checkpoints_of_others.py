"""Checkpoints of other libraries: the weights that they stand for, in the type asked for, and their sizes.

The right values are dequantized by hand from the tensors that are written here, and counted from their bytes.
What GPTQ's and bitsandbytes' own libraries wrote is read in `make interop-test`; here modules of their form
stand in for theirs.
"""

import json

import pytest
import torch
import transformers as tf
from compressed_tensors.compressors.pack_quantized import pack_to_int32
from safetensors.torch import load_file, save_file
from torch import nn

from kick.compress import canonical, check
from kick.errors import KickError
from kick.model import blocks, linears, load, resolve
from kick.model.elsewhere import note_sizes
from kick.model.footprint import footprint
from tests.regressions.gguf_files import BASE, made

CONFIG = {**BASE, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16, "num_hidden_layers": 1}
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
E2M1 = torch.cat([E2M1, -E2M1])  # the code's fourth bit is the sign
WEIGHTS = {
    "num_bits": 4,
    "type": "int",
    "symmetric": True,
    "strategy": "group",
    "group_size": 32,
    "dynamic": False,
}


def written(folder, tensors_of, weights, form):
    """A checkpoint of compressed-tensors; each matrix of the blocks is tensors_of(generator, shape)."""
    model = made(tf.LlamaConfig(**CONFIG))
    model.save_pretrained(folder)
    load(resolve("smoke"))[1].save_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    right = {}
    for linear in linears(blocks(model)[0]):
        name = f"model.layers.0.{linear.name}"
        shape = tuple(stored.pop(f"{name}.weight").shape)
        tensors, right[name] = tensors_of(generator, shape)
        stored |= {f"{name}.{leaf}": value for leaf, value in tensors.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed",
        "ignore": ["lm_head"], "version": "0.19.0",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "format": form}},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return right


def codes_of(generator, shape):
    codes = torch.randint(0, 16, shape, generator=generator)
    return codes, (codes[:, ::2] | codes[:, 1::2] << 4).to(torch.uint8)  # the first in the low half


def mxfp4(generator, shape):
    """32 codes share a power of two, stored as its exponent plus 127."""
    codes, packed = codes_of(generator, shape)
    scale = torch.randint(120, 126, (shape[0], shape[1] // 32), generator=generator)
    right = E2M1[codes] * torch.exp2(scale.float() - 127).repeat_interleave(32, dim=1)
    return {"weight_packed": packed, "weight_scale": scale.to(torch.uint8)}, right


def nvfp4(generator, shape):
    """16 codes share a scale of 8 bits, all of them one of 32."""
    codes, packed = codes_of(generator, shape)
    scale = (torch.rand((shape[0], shape[1] // 16), generator=generator) * 100 + 20).to(torch.float8_e4m3fn)
    total = torch.tensor([1000.0])
    right = E2M1[codes] * (scale.float() / total).repeat_interleave(16, dim=1)
    return {"weight_packed": packed, "weight_scale": scale, "weight_global_scale": total}, right


FP4 = {
    "mxfp4-pack-quantized": (mxfp4, {**WEIGHTS, "type": "float", "scale_dtype": "torch.uint8"}, 4 + 8 / 32),
    "nvfp4-pack-quantized": (
        nvfp4, {**WEIGHTS, "type": "float", "strategy": "tensor_group", "group_size": 16,
                "scale_dtype": "torch.float8_e4m3fn"}, 4 + 8 / 16,
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", FP4)
def test_fp4_has_the_type_that_was_asked_for(form, dtype, tmp_path):
    tensors_of, weights, bits = FP4[form]
    right = written(tmp_path, tensors_of, weights, form)
    model, _ = load(resolve(str(tmp_path), dtype=dtype))
    assert model(torch.arange(3, 20)[None]).logits.dtype == model.dtype == getattr(torch, dtype)
    for name, weight in right.items():
        found = model.get_submodule(name).weight
        assert found.dtype == model.dtype
        torch.testing.assert_close(found.float(), weight, rtol=0 if tensors_of is mxfp4 else 1e-2, atol=0)
    assert footprint(model)["bits_per_weight"] == bits


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_packed_integers_are_as_large_as_their_file(bits, tmp_path):
    """Three bits take 3.2, ten of them in 32: what the file has, not what the format is named after."""

    def packed(generator, shape):
        half = 2 ** (bits - 1)
        codes = torch.randint(-half, half, shape, generator=generator).to(torch.int8)
        scale = torch.rand((shape[0], shape[1] // 32), generator=generator)
        tensors = {"weight_packed": pack_to_int32(codes, bits), "weight_scale": scale}
        right = codes * scale.repeat_interleave(32, dim=1)
        return tensors | {"weight_shape": torch.tensor(shape)}, right

    right = written(tmp_path, packed, {**WEIGHTS, "num_bits": bits}, "pack-quantized")
    model, _ = load(resolve(str(tmp_path)))
    for name, weight in right.items():
        torch.testing.assert_close(model.get_submodule(name).weight.data, weight)
    stored = load_file(tmp_path / "model.safetensors")
    codes = sum(tensor.nbytes for name, tensor in stored.items() if name.endswith("packed"))
    weights = sum(weight.numel() for weight in right.values())
    assert footprint(model)["bits_per_weight"] == pytest.approx(8 * codes / weights + 16 / 32, abs=1e-6)


def test_more_codes_than_the_installed_version_unpacks_are_refused_by_name(tmp_path):
    """compressed-tensors 0.19 packs 3 bits without gaps: 12 words of 32 bits for 128 inputs, not 13."""

    def dense(generator, shape):
        words = torch.randint(-(2**31), 2**31 - 1, (shape[0], shape[1] * 3 // 32), generator=generator)
        scale = torch.rand((shape[0], shape[1] // 32), generator=generator)
        tensors = {"weight_packed": words.to(torch.int32), "weight_scale": scale}
        return tensors | {"weight_shape": torch.tensor(shape)}, None

    written(tmp_path, dense, {**WEIGHTS, "num_bits": 3}, "pack-quantized")
    with pytest.raises(KickError, match=r"pack-quantized \(3 bits, int, strategy group\) by .* 0\.19\.0"):
        resolve(str(tmp_path))


def fp8_in_blocks(folder, side):
    def block(generator, shape):
        weight = torch.randn(shape, generator=generator).to(torch.float8_e4m3fn)
        scale = torch.rand((-(-shape[0] // side), -(-shape[1] // side)), generator=generator)
        right = weight.float() * scale.repeat_interleave(side, 0)[: shape[0]].repeat_interleave(side, 1)
        return {"weight": weight, "weight_scale": scale}, right

    weights = {**WEIGHTS, "num_bits": 8, "type": "float", "strategy": "block", "group_size": None}
    return written(folder, block, weights | {"block_structure": [side, side]}, "float-quantized")


def test_fp8_in_blocks_is_read_where_the_installed_version_can(tmp_path):
    right = fp8_in_blocks(tmp_path, 16)
    model, _ = load(resolve(str(tmp_path)))
    for name, weight in right.items():
        assert torch.equal(model.get_submodule(name).weight, weight)


def test_fp8_in_blocks_is_refused_by_name_where_it_cannot(tmp_path):
    """compressed-tensors 0.17 takes one column of blocks for a scale per row."""
    fp8_in_blocks(tmp_path, 64)
    with pytest.raises(KickError, match=r"float-quantized \(8 bits, float, strategy block\).*cannot unpack"):
        resolve(str(tmp_path))


@pytest.mark.parametrize(
    ("quantization", "word"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, "quantized with gptq.*optimum"),
        ({"load_in_4bit": True, "quant_method": "bitsandbytes"}, "quantized with bitsandbytes.*bitsandbytes"),
        ({"quant_method": "nobody"}, "quantized with nobody.*does not know this method"),
    ],
)
def test_a_library_that_is_missing_is_named_at_plan(quantization, word, tmp_path):
    made(tf.LlamaConfig(**CONFIG)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    with pytest.raises(KickError, match=word):
        resolve(str(tmp_path))


def test_a_checkpoint_without_a_tokenizer_is_refused_at_plan(tmp_path):
    made(tf.LlamaConfig(**CONFIG)).save_pretrained(tmp_path)
    with pytest.raises(KickError, match=r"has no tokenizer .*expected one of tokenizer\.json.*made from"):
        resolve(str(tmp_path))


# ------------------------------------------------------------------- other libraries' modules


class Packed(nn.Module):
    """A matrix as GPTQ's and bitsandbytes' modules hold it: no weight in floating point."""

    def __init__(self, rows: int, columns: int, tensors):
        super().__init__()
        if "g_idx" in tensors:  # AutoRound's layers of GPTQ's form, where torch has in_features
            self.infeatures, self.outfeatures = columns, rows
        else:
            self.in_features, self.out_features = columns, rows
        for name, tensor in tensors.items():
            self.register_buffer(name.replace(".", "_"), tensor)


def gptq(rows, columns):
    groups = columns // 32
    return {
        "qweight": torch.zeros((columns // 8, rows), dtype=torch.int32),
        "qzeros": torch.zeros((groups, rows // 8), dtype=torch.int32),
        "scales": torch.zeros((groups, rows), dtype=torch.float16),
        "g_idx": torch.zeros(columns, dtype=torch.int32),
    }


def nf4(rows, columns):
    return {
        "weight": torch.zeros((rows * columns // 2, 1), dtype=torch.uint8),
        "weight.absmax": torch.zeros(rows * columns // 64),
        "weight.quant_map": torch.zeros(16),
        "weight.quant_state.bitsandbytes__nf4": torch.zeros(79, dtype=torch.uint8),
    }


def int8(rows, columns):
    return {"weight": torch.zeros((rows, columns), dtype=torch.int8), "SCB": torch.zeros(rows)}


@pytest.mark.parametrize(
    ("tensors_of", "bits"),
    [(gptq, 4 + 20 / 32), (nf4, 4 + 32 / 64), (int8, None)],
    ids=["gptq", "nf4", "int8"],
)
def test_modules_of_other_libraries_count_all_of_their_weights(tensors_of, bits, tmp_path):
    """GPTQ's had no weight (a division by zero), NF4's half of them at 16 bits, int8's 16 bits."""
    model = made(tf.LlamaConfig(**CONFIG))
    dense = footprint(model)
    stored, by_hand = {}, 0.0
    for name, module in list(model.model.layers.named_modules()):
        if isinstance(module, nn.Linear):
            rows, columns = module.weight.shape
            tensors = tensors_of(rows, columns)
            model.model.layers.set_submodule(name, Packed(rows, columns, tensors))
            stored |= {f"model.layers.{name}.{leaf}": tensor for leaf, tensor in tensors.items()}
            by_hand += rows * columns * (bits or 8 + 32 / columns)
    rest = {
        name: t for name, t in model.state_dict().items() if ".mlp." not in name and ".self_attn." not in name
    }
    save_file({k: v.contiguous() for k, v in (stored | rest).items()}, tmp_path / "model.safetensors")
    note_sizes(model, tmp_path, tensors_of.__name__)
    size = footprint(model)
    assert size["linear_parameters"] == dense["linear_parameters"]
    assert size["parameters"] == dense["parameters"]
    assert size["bits_per_weight"] == pytest.approx(by_hand / dense["linear_parameters"], abs=1e-6)
    outside = dense["packed_bytes"] - dense["packed_linear_bytes"]
    assert size["packed_bytes"] == pytest.approx(by_hand / 8 + outside, abs=1)
    with pytest.raises(KickError, match=f"another library keeps in its own format .{tensors_of.__name__}"):
        check(model, [canonical("wanda", {"sparsity": 0.5})])


def test_a_block_without_a_matrix_is_said_to_be_one():
    model = made(tf.LlamaConfig(**CONFIG))
    for name, module in list(model.model.layers.named_modules()):
        if isinstance(module, nn.Linear):
            model.model.layers.set_submodule(name, nn.Identity())
    with pytest.raises(KickError, match="no weight matrix"):
        footprint(model)
