"""Checkpoints that someone else compressed: dequantized as they are loaded, as large as their files are.

compressed-tensors packs its weights; here they are unpacked once, so that a matrix is a matrix again. A
checkpoint that rounds activations keeps doing so in its forward. Other libraries (GPTQ, bitsandbytes) keep
their own modules and compute with them. How large each matrix is comes from the bytes of the file.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CompressedTensorsConfig, PretrainedConfig, PreTrainedModel

from kick.model.footprint import STORAGES, VALUE_BITS, Storage
from kick.model.gguf import SIZES
from kick.model.packed import is_plain
from kick.model.structure import PACKED, named_linears

_LEFTOVERS = ("weight_scale", "weight_zero_point", "weight_shape", "weight_packed", "weight_g_idx")
# Scales of these names have the type that the model was saved in: they count as 16 bits, as dense values do
_FREE = ("weight_scale", "scales", "qbiases", "_weight_scale")
_CONSTANT = {
    "weight_shape", "weight_global_scale", "input_global_scale", "input_scale", "weight_format",
    "input_activation_scale", "output_activation_scale",
}  # fmt: skip
_EXPERTS = re.compile(r"(^|\.)experts(\.|$)")
# What modules call their sides: torch's and most, AutoRound's, embeddings
_SIDES = (("in_features", "out_features"), ("infeatures", "outfeatures"), ("num_embeddings", "embedding_dim"))
_TABLES = ("quant_map", "quant_state")  # of bitsandbytes: the same few bytes for any size of matrix


def method_of(config: PretrainedConfig) -> str | None:
    """The library or format that a checkpoint was quantized with ("gptq", "bitsandbytes", ...), or None."""
    quantization = getattr(config, "quantization_config", None)
    if quantization is None:
        return None
    found = quantization.get("quant_method") if isinstance(quantization, dict) else quantization.quant_method
    return str(getattr(found, "value", found))


def load_options(config: PretrainedConfig) -> dict[str, Any]:
    """What from_pretrained must be told so that packed weights come back as matrices."""
    method = method_of(config)
    if method == "compressed-tensors":
        return {"quantization_config": CompressedTensorsConfig(dequantize=True)}
    if method == "metal":  # else they are put on an Apple GPU, also where there is none
        return {"device_map": {"": "cpu"}}
    return {}


def unpacked(model: PreTrainedModel, method: str | None) -> None:
    """Take away what dequantizing leaves behind, in place; weights have the model's type again.

    Args:
        method: what `method_of` said of the folder's config.
    """
    if method == "mxfp4":  # experts come as bfloat16, whatever was asked
        for parameter in model.parameters():
            if parameter.dtype == torch.bfloat16:
                parameter.data = parameter.data.to(model.dtype)
    known = packed = False
    for _name, module in model.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is None or scheme.weights is None:
            continue
        known = True
        module.weight.data = module.weight.data.to(
            model.dtype
        )  # FP4 is unpacked to bfloat16 whatever was asked
        if scheme.input_activations or scheme.output_activations:
            packed = True  # something is rounded as the model runs
        else:
            module.__dict__.pop("forward", None)  # it would round weights that are on their grid already
            del module.quantization_scheme
            for leftover in _LEFTOVERS:
                module._parameters.pop(leftover, None)
    if known and not packed:
        model.hf_quantizer = None
        vars(model.config).pop("quantization_config", None)


def looks_ahead(model: nn.Module) -> bool:
    """Whether a token changes a little what is computed for those before it and beside it: LLM.int8().

    bitsandbytes leaves inputs unrounded that pass a threshold for any token that it is given at once.
    """
    quantization = getattr(getattr(model, "config", None), "quantization_config", None)
    if not getattr(quantization, "load_in_8bit", False):
        return False
    return bool(getattr(quantization, "llm_int8_threshold", 0))


def note_sizes(model: PreTrainedModel, folder: Path, method: str | None) -> None:
    """Note on the model how its file stores each matrix: `footprint` and what needs matrices look there.

    Args:
        method: what `method_of` said of the folder's config.
    """
    if (folder / SIZES).is_file():
        sizes = json.loads((folder / SIZES).read_text())
        setattr(model, STORAGES, _of_gguf(model, sizes))
    elif method is not None:
        setattr(model, STORAGES, _of_files(model, folder, method))


def _of_gguf(model: PreTrainedModel, sizes: Mapping[str, float]) -> dict[str, Storage]:
    """Bits by name of a weight -> storages: of matrices by their own names, of all else by the tensor's."""
    matrices: dict[str, Storage] = {}
    parameters: set[str] = set()
    for name, _, linear in named_linears(model):
        owner = name if linear.expert is None else name.rsplit(".", 2)[0]
        parameter = f"{owner}.{linear.parameter}"
        if parameter in sizes:
            parameters.add(parameter)
            matrices[name] = Storage(sizes[parameter], fixed=True)
    rest = {name: Storage(bits, fixed=True) for name, bits in sizes.items() if name not in parameters}
    return matrices | rest


def _of_files(model: PreTrainedModel, folder: Path, method: str) -> dict[str, Storage]:
    """How the safetensors of a folder hold each quantized matrix: all of its tensors' bits, by weight."""
    modules = dict(model.named_modules())
    found: dict[str, Storage] = {}
    for name, tensors in _stored(folder).items():
        module = modules.get(name)
        if module is None or (set(tensors) <= {"weight", "bias"} and _plain(tensors.get("weight"))):
            continue
        if not (size := _size(module)):
            continue
        bits = sum(_bits(leaf, *stored, act_order=_ordered(model)) for leaf, stored in tensors.items())
        whole = _is_matrix(module)
        if not whole:
            setattr(module, PACKED, method)
        found[name] = Storage(bits / size, fixed=True, size=0 if whole else size)
    return found | _of_experts(model, _stored(folder))


def _of_experts(model: PreTrainedModel, stored: Mapping[str, Mapping[str, tuple[str, list[int]]]]) -> dict:
    """Experts that are slices of a parameter: a block's share all bits that the file has for any of them.

    Files have them one by one or together; their names share with the model's the block's number and
    "experts".
    """
    slices: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for name, index, linear in named_linears(model, skip_packed=True):
        if linear.expert is not None:
            slices[f".{index}."].append((name, linear.weight.numel()))
    found: dict[str, Storage] = {}
    for number, matrices in slices.items():
        leaves = [
            (leaf, *shape)
            for owner, tensors in stored.items()
            if number in owner and _EXPERTS.search(owner)
            for leaf, shape in tensors.items()
            if not leaf.endswith("bias")
        ]
        if all(_plain((dtype, shape)) for _, dtype, shape in leaves):
            continue
        bits = sum(_bits(*leaf, act_order=_ordered(model)) for leaf in leaves)
        share = bits / sum(size for _, size in matrices)
        found |= {name: Storage(share, fixed=True) for name, _ in matrices}
    return found


def _stored(folder: Path) -> dict[str, dict[str, tuple[str, list[int]]]]:
    """Module -> leaf -> (type, shape) of each tensor in a folder's safetensors.

    What bitsandbytes keeps of a weight (`weight.absmax`) is a leaf of the module.
    """
    found: dict[str, dict[str, tuple[str, list[int]]]] = defaultdict(dict)
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as stored:
            for name in stored.keys():  # noqa: SIM118
                owner, leaf = name.rpartition(".")[::2]
                if ".weight." in f"{name}." and leaf != "weight":
                    owner, _, leaf = name.partition(".weight.")
                piece = stored.get_slice(name)
                found[owner][leaf] = (piece.get_dtype(), piece.get_shape())
    return found


def _bits(leaf: str, dtype: str, shape: list[int], act_order: bool) -> int:
    """Bits of a tensor that grow with the matrix it belongs to."""
    if leaf == "bias" or leaf in _CONSTANT or any(part in leaf for part in _TABLES):
        return 0
    if leaf == "g_idx" and not act_order:  # the group of each input: its number divided by the group's size
        return 0
    width = int(re.sub(r"^[A-Z]+", "", dtype).partition("_")[0])
    return math.prod(shape) * (min(width, VALUE_BITS) if leaf in _FREE else width)


def _plain(stored: tuple[str, list[int]] | None) -> bool:
    return stored is None or stored[0] in ("F64", "F32", "BF16", "F16")


def _ordered(model: PreTrainedModel) -> bool:
    quantization = getattr(model.config, "quantization_config", None)
    found = (
        quantization.get("desc_act")
        if isinstance(quantization, dict)
        else getattr(quantization, "desc_act", 0)
    )
    return bool(found)


def _is_matrix(module: nn.Module) -> bool:
    """Whether a module's weight is there in full, as floating-point values."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or not is_plain(weight):
        return False
    return weight.is_floating_point() and weight.numel() == _size(module)


def _size(module: nn.Module) -> int:
    """Weights of a matrix or an embedding, by what its module says of itself; 0 for anything else."""
    for sides in _SIDES:
        found = [int(getattr(module, side, 0) or 0) for side in sides]
        if all(found):
            return math.prod(found)
    return 0
