"""How large a compressed model is: as stored now, and in an ideal packed format.

Packed sizes count values of 16 bits where a weight is not quantized, whatever type the model was run in: a
dense model then has 16 bits a weight, as the literature counts. Embeddings, norms and all else stay at 16
bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kick.model.structure import block_list, linears

VALUE_BITS = 16


@dataclass(frozen=True)
class Storage:
    """How a weight could be stored: bits a value, and what is pruned (n of each m; m = 0: anywhere).

    `shared` is the bits that groups of weights have together, scales and zero points, as a share of each
    weight: they are there however many of a group are pruned. `zero`: whether it is among the values that
    the bits can say; else what is pruned has to be said apart.
    """

    bits: float = VALUE_BITS
    shared: float = 0.0
    n: int = 0
    m: int = 0
    zero: bool = True


def footprint(model: nn.Module, storages: Mapping[str, Storage] | None = None) -> dict[str, Any]:
    """Parameters, zeros, bytes and bits of a model, as JSON values.

    Args:
        storages: by full name of a linear; those not named are as a checkpoint that was quantized elsewhere
            says of itself, else dense values of VALUE_BITS.

    Returns:
        parameters: distinct ones, tied weights once; stored_bytes: of the tensors as they are;
        linear_parameters, linear_zeros: of the matrices in the blocks;
        packed_bytes: everything, each matrix in its smallest format; packed_linear_bytes: the matrices alone;
        bits_per_weight: of the matrices, packed, everything counted; value_bits: of an unquantized value.
    """
    storages = {**getattr(model, "kick_storages", {}), **(storages or {})}
    path, modules = block_list(model)
    weights = zeros = 0
    bits = 0.0
    for index, block in enumerate(modules):
        for linear in linears(block):
            empty = _zeros(linear.weight)
            weights += linear.weight.numel()
            zeros += empty
            storage = storages.get(f"{path}.{index}.{linear.name}", Storage())
            bits += packed_bits(linear.weight.numel(), empty, storage)
    tensors = _distinct(model)
    other = sum(tensor.numel() for tensor in tensors) - weights
    return {
        "parameters": weights + other,
        "linear_parameters": weights,
        "linear_zeros": zeros,
        "stored_bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        "packed_bytes": math.ceil((bits + other * VALUE_BITS) / 8),
        "packed_linear_bytes": math.ceil(bits / 8),
        "bits_per_weight": round(bits / weights, 6),
        "value_bits": VALUE_BITS,
    }


def packed_bits(size: int, zeros: int, storage: Storage) -> float:
    """The bits of a matrix of `size` weights in its smallest format.

    Dense: every value. Bitmap: a bit for each weight, and the values that are not zero. n:m: the m - n
    values kept of each m, and the place of each among the m. What groups share is added to each.
    """
    shared = size * storage.shared
    dense = size * storage.bits if storage.zero or not zeros else math.inf
    bitmap = size + (size - zeros) * storage.bits
    if not storage.m:
        return shared + min(dense, bitmap)
    kept = size * (storage.m - storage.n) / storage.m
    return shared + min(dense, bitmap, kept * (storage.bits + math.ceil(math.log2(storage.m))))


def _zeros(weight: Tensor) -> int:
    if weight.device.type == "cpu" and weight.dtype == torch.float32:
        return weight.numel() - int(np.count_nonzero(weight.numpy()))  # ten times as fast as torch's
    return weight.numel() - int(torch.count_nonzero(weight))


def _distinct(model: nn.Module) -> list[Tensor]:
    """The tensors that a checkpoint holds, tied ones once."""
    found = {(tensor.data_ptr(), tuple(tensor.shape)): tensor for tensor in model.state_dict().values()}
    return list(found.values())
