"""Checkpoints that someone else compressed: dequantized as they are loaded, with what they say of their size.

compressed-tensors packs its weights; here they are unpacked once, so that a matrix is a matrix again. A
checkpoint that rounds activations keeps doing so in its forward.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import CompressedTensorsConfig, PretrainedConfig

from kick.model.footprint import Storage
from kick.model.structure import block_list

_LEFTOVERS = ("weight_scale", "weight_zero_point", "weight_shape", "weight_packed", "weight_g_idx")
_STORAGES = "kick_storages"  # the attribute of a model that footprint() reads


def load_options(config: PretrainedConfig) -> dict[str, Any]:
    """What from_pretrained must be told so that packed weights come back as matrices."""
    quantization = getattr(config, "quantization_config", None) or {}
    method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization.quant_method
    if method != "compressed-tensors":
        return {}
    return {"quantization_config": CompressedTensorsConfig(dequantize=True)}


def unpacked(model: nn.Module) -> None:
    """Take away what dequantizing leaves behind, in place, and note how each matrix was stored."""
    path = block_list(model)[0]
    storages: dict[str, Storage] = {}
    rounding = False  # something is rounded as the model runs
    for name, module in model.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is None or scheme.weights is None:
            continue
        if name.startswith(f"{path}."):
            storages[name] = Storage(*_bits(scheme.weights, module.weight.shape[1]))
        if scheme.input_activations or scheme.output_activations:
            rounding = True
        else:
            module.__dict__.pop("forward", None)  # it would round weights that are on their grid already
            del module.quantization_scheme
            for leftover in _LEFTOVERS:
                module._parameters.pop(leftover, None)
    if storages:
        setattr(model, _STORAGES, storages)
        if not rounding:
            model.hf_quantizer = None
            vars(model.config).pop("quantization_config", None)


def _bits(weights: Any, inputs: int) -> tuple[float, float]:
    """Bits of a weight, and its share of scale and zero point."""
    size = weights.group_size if weights.group_size and weights.group_size > 0 else inputs
    return weights.num_bits, (16 + (0 if weights.symmetric else weights.num_bits)) / size
