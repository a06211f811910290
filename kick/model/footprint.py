"""How large a compressed model is: as stored now, and in an ideal packed format.

Packed sizes count values of 16 bits where a weight is not quantized, whatever type the model was run in: a
dense model then has 16 bits per weight, as the literature counts. Embeddings, norms and all else stay at 16
bits. A checkpoint that someone else quantized is as large as its file says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from torch import Tensor, nn

from kick.errors import KickError
from kick.model import counting
from kick.model.packed import is_plain
from kick.model.structure import block_list, named_linears

VALUE_BITS = 16
STORAGES = "kick_storages"  # attribute of a model that was quantized elsewhere: how its matrices are stored


@dataclass(frozen=True)
class Storage:
    """How a weight could be stored: bits a value, and what is pruned (n of each m; m = 0: anywhere).

    `shared` is the bits that groups of weights have together, scales and zero points, as a share of each
    weight: they are there however many of a group are pruned. `zero`: whether it is among the values that
    the bits can say; else what is pruned has to be said apart. `fixed`: a file has it so, whatever is zero.
    `size` is the number of weights where the model's own tensor does not show it, 0 where it does.
    """

    bits: float = VALUE_BITS
    shared: float = 0.0
    n: int = 0
    m: int = 0
    zero: bool = True
    fixed: bool = False
    size: int = 0


def footprint(
    model: nn.Module, storages: Mapping[str, Storage] | None = None, zeros: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Parameters, zeros, bytes and bits of a model, as JSON values.

    Args:
        storages: by full name of a linear; those not named are as a checkpoint that was quantized elsewhere
            says of itself, else dense values of VALUE_BITS.
        zeros: of every linear, where they are known and the model's weights are not there to be looked at.

    Returns:
        parameters: distinct ones, tied weights once; stored_bytes: of the tensors as they are;
        linear_parameters, linear_zeros: of the matrices in the blocks;
        packed_bytes: everything, each matrix in its smallest format; packed_linear_bytes: the matrices alone;
        bits_per_weight: of the matrices, packed, everything counted; value_bits: of an unquantized value.
    """
    storages = {**getattr(model, STORAGES, {}), **(storages or {})}
    sizes = _matrices(model, storages, zeros)
    tensors = distinct(model)
    rest = _rest(tensors, storages, sizes)
    return {
        "parameters": sizes.weights + rest.weights,
        "linear_parameters": sizes.weights,
        "linear_zeros": sizes.zeros,
        "stored_bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
        "packed_bytes": math.ceil((sizes.bits + rest.bits) / 8),
        "packed_linear_bytes": math.ceil(sizes.bits / 8),
        "bits_per_weight": round(sizes.bits / sizes.weights, 6),
        "value_bits": VALUE_BITS,
    }


@dataclass
class _Sizes:
    """A sum over tensors; `names` are of matrices, `dense` counts weights that are tensors of the model."""

    weights: int = 0
    zeros: int = 0
    bits: float = 0.0
    dense: int = 0
    names: set[str] = field(default_factory=set)


def _matrices(model: nn.Module, storages: Mapping[str, Storage], known: Mapping[str, int] | None) -> _Sizes:
    """All matrices of the blocks, those of another library's format as their file has them."""
    path = block_list(model)[0]
    found = _Sizes()
    for name, _, linear in named_linears(model, skip_packed=True):
        zeros = counting.zeros(linear.weight) if known is None else known[name]
        size = linear.weight.numel()
        found.names.add(name)
        found.zeros += zeros
        found.dense += size
        found.bits += packed_bits(size, zeros, storages.get(name, Storage()))
    found.weights = found.dense
    for name, storage in storages.items():
        if storage.size and name.startswith(f"{path}."):
            found.weights += storage.size
            found.bits += storage.size * storage.bits
            found.names.add(name)
    if not found.weights:
        raise KickError(f"{type(model).__name__} has no weight matrix in its blocks that kick knows")
    return found


def _rest(tensors: Mapping[str, Tensor], storages: Mapping[str, Storage], matrices: _Sizes) -> _Sizes:
    """Embeddings, norms and all else beside the blocks' matrices."""
    packed = {name for name, storage in storages.items() if storage.size}
    fixed = {name for name, storage in storages.items() if storage.fixed}
    found = _Sizes(weights=-matrices.dense, bits=-matrices.dense * VALUE_BITS)
    for name, tensor in tensors.items():
        if not name.endswith(".bias") and not packed.isdisjoint(_owners(name)):
            continue  # another library's codes and scales
        if name.rpartition(".")[0] in fixed and not name.endswith((".weight", ".bias")):
            continue  # scales of a matrix that is counted by its file
        storage = storages.get(name, Storage()) if name not in matrices.names else Storage()
        found.weights += tensor.numel()
        found.bits += tensor.numel() * storage.bits
    for name in packed - matrices.names:
        found.weights += storages[name].size
        found.bits += storages[name].size * storages[name].bits
    return found


def packed_bits(size: int, zeros: int, storage: Storage) -> float:
    """The bits of a matrix of `size` weights in its smallest format.

    Dense: every value. Bitmap: a bit for each weight, and the values that are not zero. n:m: the m - n
    values kept of each m, and the place of each among the m. What groups share is added to each.
    """
    if storage.fixed:
        return size * (storage.bits + storage.shared)
    shared = size * storage.shared
    dense = size * storage.bits if storage.zero or not zeros else math.inf
    bitmap = size + (size - zeros) * storage.bits
    if not storage.m:
        return shared + min(dense, bitmap)
    kept = size * (storage.m - storage.n) / storage.m
    return shared + min(dense, bitmap, kept * (storage.bits + math.ceil(math.log2(storage.m))))


def distinct(model: nn.Module) -> dict[str, Tensor]:
    """Tensors that a checkpoint holds, by name, tied ones once."""
    found: dict[tuple[int, tuple[int, ...]], tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        for inner, part in _parts(name, tensor):
            place = part.untyped_storage()._cdata if part.is_meta else part.data_ptr()
            found.setdefault((place, tuple(part.shape)), (inner, part))
    return dict(found.values())


def _parts(name: str, tensor: object) -> list[tuple[str, Tensor]]:
    """A tensor, or those that a library's own kind of tensor is made of (torchao: codes, scales)."""
    if not isinstance(tensor, Tensor):
        return []
    if is_plain(tensor):
        return [(name, tensor)]
    inner = cast(Any, tensor).__tensor_flatten__()[0]
    return [part for leaf in inner for part in _parts(f"{name}.{leaf}", getattr(tensor, leaf))]


def _owners(name: str) -> list[str]:
    """`a.b.c` -> a.b, a"""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]
