"""Checkpoints in formats that transformers reads by itself, written tensor by tensor, and what they mean.

Each writer takes a matrix (out, in) and gives (the tensors of the file by leaf, the values that they mean).
The forms are those of the format's own description; nothing is shared with transformers' reader.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kick.model import blocks, linears, load, resolve

E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
E2M1 = torch.cat([E2M1, -E2M1])  # the code's fourth bit is the sign
TYPED = ("weight_scale", "scales", "qbiases")
Writer = Callable[[Tensor], tuple[dict[str, Tensor], Tensor]]


def rewrite(model, folder: Path, writer: Writer, quantization: Mapping[str, Any]) -> int:
    """Save a model with each matrix of its blocks as a writer writes it, and give the model those values.

    Returns the bits of all that the file has of these matrices, scales in the type of the model as 16 bits.
    """
    model.save_pretrained(folder)
    load(resolve("smoke"))[1].save_pretrained(folder)
    stored, size = load_file(folder / "model.safetensors"), 0
    for number, block in enumerate(blocks(model)):
        for linear in linears(block):
            name = f"model.layers.{number}.{linear.name}"
            tensors, values = writer(stored.pop(f"{name}.weight"))
            linear.put(values)
            size += sum(_bits(*item) for item in tensors.items())
            stored |= {f"{name}.{leaf}": value.contiguous() for leaf, value in tensors.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    declare(folder, quantization)
    return size


def _bits(leaf: str, tensor: Tensor) -> int:
    return 0 if not tensor.ndim else tensor.numel() * (16 if leaf in TYPED else 8 * tensor.element_size())


def declare(folder: Path, quantization: Mapping[str, Any]) -> None:
    """Put a quantization_config into a folder's config.json."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": dict(quantization)}))


def packed(codes: Tensor, bits: int, word: int) -> Tensor:
    """(out, in) of codes -> words of so many bits, the first code in the lowest of them; int64."""
    per = word // bits
    return (codes.long().reshape(codes.shape[0], -1, per) << bits * torch.arange(per)).sum(-1)


def fp8(weight: Tensor, side: int = 32) -> tuple[dict[str, Tensor], Tensor]:
    """DeepSeek-V3's: a scale per square of the matrix."""
    rows, columns = weight.shape
    squares = weight.reshape(rows // side, side, columns // side, side)
    scale = squares.abs().amax((1, 3)) / 448
    codes = (squares / scale[:, None, :, None]).to(torch.float8_e4m3fn)
    values = (codes.float() * scale[:, None, :, None]).reshape(rows, columns)
    return {"weight": codes.reshape(rows, columns), "weight_scale_inv": scale}, values


def mxfp8(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """32 values of a row share a power of two, stored as its exponent plus 127."""
    groups = weight.reshape(weight.shape[0], -1, 32)
    exponent = torch.floor(torch.log2(groups.abs().amax(-1))) - 8
    size = torch.exp2(exponent)[..., None]
    codes = (groups / size).clamp(-448, 448).to(torch.float8_e4m3fn)
    scale = (exponent + 127).to(torch.uint8).view(torch.float8_e8m0fnu)
    values = (codes.float() * size).reshape(weight.shape)
    return {"weight": codes.reshape(weight.shape), "weight_scale_inv": scale}, values


def metal(weight: Tensor, bits: int) -> tuple[dict[str, Tensor], Tensor]:
    """MLX's affine form: words of 32 bits, a scale and a least value per 32 inputs."""
    groups = weight.reshape(weight.shape[0], -1, 32)
    least = groups.amin(-1, keepdim=True)
    scale = (groups.amax(-1, keepdim=True) - least) / (2**bits - 1)
    codes = ((groups - least) / scale).round().clamp(0, 2**bits - 1)
    words = packed(codes.reshape(weight.shape), bits, 32).to(torch.uint32)
    values = (codes * scale + least).reshape(weight.shape)
    return {"weight": words, "scales": scale[..., 0], "qbiases": least[..., 0]}, values


def gemma(weight: Tensor, bits: int) -> tuple[dict[str, Tensor], Tensor]:
    """Signed codes and a scale per row; a range of 0 for activations rounds none of them."""
    half = 2 ** (bits - 1)
    scale = weight.abs().amax(1, keepdim=True) / half
    codes = (weight / scale).round().clamp(-half, half - 1)
    stored = codes.to(torch.int8) if bits == 8 else packed(codes + half, bits, 8).to(torch.uint8)
    ranges = {f"{side}_activation_scale": torch.tensor(0.0) for side in ("input", "output")}
    return {"weight": stored, "weight_scale": scale} | ranges, codes * scale


def bitnet(weight: Tensor, inverse: bool) -> tuple[dict[str, Tensor], Tensor]:
    """-1, 0 and 1 in two bits; a byte has rows i, i + out/4, i + out/2 and i + 3 out/4 of a column.

    Args:
        inverse: whether the file has one over the matrix's scale, as BitLinear has and AutoBitLinear has not.
    """
    scale = weight.abs().mean()
    codes = (weight / scale).round().clamp(-1, 1)
    quarters = (codes + 1).to(torch.uint8).reshape(4, weight.shape[0] // 4, -1)
    stored = quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6
    return {"weight": stored, "weight_scale": (1 / scale if inverse else scale)[None]}, codes * scale


def mxfp4(weight: Tensor, generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
    """Experts (E, in, out) as gpt-oss has them: random codes, 32 inputs of an output share a power of two."""
    experts, inputs, outputs = weight.shape
    codes = torch.randint(0, 16, (experts, outputs, inputs // 32, 32), generator=generator)
    exponent = torch.randint(122, 126, (experts, outputs, inputs // 32), generator=generator)
    blocks = (codes[..., ::2] | codes[..., 1::2] << 4).to(torch.uint8)  # the first in the low half
    values = E2M1[codes] * torch.exp2(exponent.float() - 127)[..., None]
    values = values.reshape(experts, outputs, inputs).transpose(1, 2)
    return {"blocks": blocks, "scales": exponent.to(torch.uint8)}, values.contiguous()


# name -> (writer, quantization_config)
FORMS: dict[str, tuple[Writer, dict[str, Any]]] = {
    "fp8": (fp8, {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32]}),
    "mxfp8": (mxfp8, {"quant_method": "mxfp8", "activation_scheme": "dynamic"}),
}
for width in (2, 4, 8):
    FORMS[f"metal {width}"] = (
        partial(metal, bits=width),
        {"quant_method": "metal", "bits": width, "group_size": 32},
    )
    FORMS[f"gemma {width}"] = (
        partial(gemma, bits=width),
        {"quant_method": "gemma", "num_bits": width, "modules_to_not_convert": ["lm_head"]},
    )
