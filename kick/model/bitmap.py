"""The bitmap format: a bit for each weight, and the values that are not zero, packed.

After Endor (Hardware-Friendly Sparse Format for Offloaded LLM Inference, 2024, arXiv 2406.11674), in a
safetensors file: for each tensor NAME there are NAME.bitmap (bytes, eight weights each, first weight in the
high bit), NAME.values and NAME.shape. Only the bit pattern of +0 counts as zero, so that what is read back
is bit-identical. A tensor that would not get smaller is stored under its own name, as it is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT = "kick-bitmap"
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
Words = np.ndarray[Any, Any]  # (n,)


@dataclass(frozen=True)
class Rate:
    """What packing and unpacking took: bytes before and after, and megabytes of the former a second."""

    dense_bytes: int
    packed_bytes: int
    write_mb_s: float
    read_mb_s: float


def pack(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """The bitmap (ceil(n / 8),) uint8 and the values (kept,) of a tensor of n weights."""
    flat = tensor.detach().cpu().contiguous().flatten()
    bits, values = packed(flat.view(_WORDS[flat.element_size()]).numpy())
    return torch.from_numpy(bits), torch.from_numpy(values).view(flat.dtype)


def unpack(bitmap: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The tensor that `pack` was given."""
    words = values.view(_WORDS[values.element_size()]).numpy()
    flat = unpacked(bitmap.numpy(), words, int(np.prod(shape)))
    return torch.from_numpy(flat).view(values.dtype).view(shape)


def packed(words: Words) -> tuple[Words, Words]:
    """The bitmap (ceil(n / 8),) uint8 of n words, and those (kept,) that are not 0."""
    kept = words != 0
    return np.packbits(kept), words[kept]


def unpacked(bits: Words, values: Words, count: int) -> Words:
    """The `count` words that `packed` was given. Raises ValueError if bits and values do not fit together."""
    if 8 * len(bits) < count:
        raise ValueError(f"its bitmap has {8 * len(bits)} bits, expected {count}")
    kept = np.unpackbits(bits, count=count).view(bool)
    if int(kept.sum()) != len(values):
        raise ValueError(f"its bitmap has {int(kept.sum())} bits, but there are {len(values)} values")
    flat = np.zeros(count, values.dtype)
    flat[kept] = values
    return flat


def write(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write tensors to a safetensors file, each in the smaller of both formats."""
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        bitmap, values = pack(tensor)
        if bitmap.nbytes + values.nbytes >= tensor.nbytes:
            stored[name] = tensor.detach().contiguous()
            continue
        stored[f"{name}.bitmap"], stored[f"{name}.values"] = bitmap, values
        stored[f"{name}.shape"] = torch.tensor(tensor.shape, dtype=torch.int64)
    save_file(stored, file, metadata={"format": FORMAT})


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a file that `write` wrote, bit-identical."""
    stored = load_file(file)
    found: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        base, _, part = name.rpartition(".")
        if f"{base}.bitmap" not in stored or part not in ("bitmap", "values", "shape"):
            found[name] = tensor
        elif part == "bitmap":
            shape = tuple(stored[f"{base}.shape"].tolist())
            found[base] = unpack(tensor, stored[f"{base}.values"], shape)
    return found


def measure(tensors: Mapping[str, Tensor], file: Path) -> Rate:
    """Write and read back; sizes and rates. Raises ValueError if a bit differs."""
    dense = sum(tensor.nbytes for tensor in tensors.values())
    start = time.perf_counter()
    write(tensors, file)
    middle = time.perf_counter()
    back = read(file)
    end = time.perf_counter()
    for name, tensor in tensors.items():
        words = _WORDS[tensor.element_size()]
        if not torch.equal(tensor.contiguous().view(words), back[name].view(words)):
            raise ValueError(f"{name} did not come back from {file} as it was")
    return Rate(dense, file.stat().st_size, dense / (middle - start) / 1e6, dense / (end - middle) / 1e6)
