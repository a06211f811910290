"""Matrices on an integer grid in compressed-tensors' packed format, with their scales in half precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.context import Quantized
from kick.compress.grid import Grid, Scale
from kick.errors import CellFailed
from kick.model import block_list

COARSEST = 2**-8  # of a scale: the most that rounding may change it, what bfloat16 does at worst


def scale_type(weights: torch.dtype, asked: torch.dtype | None = None) -> torch.dtype:
    """The type in which scales are stored: that of the weights, float16 for float32 that nobody asked for.

    Args:
        weights: the type in which what is not packed is stored. asked: the one that was asked for, if any.
    """
    return torch.float16 if weights == torch.float32 and asked is None else weights


def rounded(name: str, scale: Scale, dtype: torch.dtype) -> Scale:
    """The scales of a matrix as a type holds them. Raises CellFailed if some change more than COARSEST."""
    found = scale.scale.to(dtype).float()
    if not bool(((found - scale.scale).abs() <= COARSEST * scale.scale.abs()).all()):
        small, large = float(scale.scale.abs().min()), float(scale.scale.abs().max())
        raise CellFailed(
            f"{name}: its scales, {small:.3g} to {large:.3g}, do not fit into {str(dtype)[6:]}; "
            "choose another --dtype, float32 fits them"
        )
    return Scale(found, scale.zero)


def packed(name: str, codes: Tensor, stored: Quantized, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of compressed-tensors' packed format for a matrix that is on a grid, scales in `dtype`.

    codes: (out, in) as `Grid.quantize` gives them.
    """
    from compressed_tensors.compressors.pack_quantized import pack_to_int32

    grid, scale = stored.on_grid()
    half = 2 ** (grid.bits - 1)  # codes are signed there
    tensors = {
        f"{name}.weight_packed": pack_to_int32((codes - half).to(torch.int8), grid.bits),
        f"{name}.weight_scale": rounded(name, scale, dtype).scale.to(dtype),
        f"{name}.weight_shape": torch.tensor(codes.shape),
    }
    if not grid.symmetric:
        zeros = (scale.zero - half).to(torch.int8)
        tensors[f"{name}.weight_zero_point"] = pack_to_int32(zeros, grid.bits, packed_dim=0)
    return tensors


def quantization_config(model: nn.Module, grid: Grid) -> dict[str, Any]:
    """What compressed-tensors reads; everything outside the blocks is left as it is."""
    path = block_list(model)[0]
    outside = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(f"{path}.")
    ]
    weights = {
        "num_bits": grid.bits,
        "type": "int",
        "symmetric": grid.symmetric,
        "strategy": "channel" if grid.group_size == -1 else "group",
        "group_size": None if grid.group_size == -1 else grid.group_size,
        "dynamic": False,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": outside,
    }
