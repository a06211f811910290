"""Weights in memory of the model's own, instead of in the mapped files of its checkpoint.

transformers maps a checkpoint: a page that was read once stays with the process until the last tensor of the
file has gone, also where a method has long put another weight in its place. A weight of its own memory goes
when it is replaced.
"""

from __future__ import annotations

import ctypes
import mmap
from bisect import bisect
from pathlib import Path

import torch
from torch import Tensor, nn

MAPS = Path("/proc/self/maps")  # where there is none, weights stay where they are


@torch.no_grad()
def own(model: nn.Module) -> None:
    """Copy the weights that lie in mapped safetensors out of them, in place, and let go the pages read."""
    mapped = _mapped()
    for tensor in [*model.parameters(), *model.buffers()]:
        if type(tensor.data) is Tensor and tensor.device.type == "cpu" and tensor.is_contiguous():
            start, size = tensor.data_ptr(), tensor.nbytes
            if any(first <= start and start + size <= last for first, last in _around(mapped, start)):
                tensor.data = tensor.data.clone()
                _let_go(start, size)


def _mapped() -> list[tuple[int, int]]:
    """The addresses of mapped safetensors, in order: first, and the one after the last."""
    if not MAPS.exists():
        return []
    lines = [line.split(maxsplit=5) for line in MAPS.read_text().splitlines()]
    spans = [parts[0].split("-") for parts in lines if parts[-1].endswith(".safetensors")]
    return sorted((int(first, 16), int(last, 16)) for first, last in spans)


def _around(mapped: list[tuple[int, int]], address: int) -> list[tuple[int, int]]:
    place = bisect(mapped, (address + 1, 0))
    return mapped[max(0, place - 1) : place]


def _let_go(start: int, size: int) -> None:
    """Drop the whole pages of a range of a mapped file from this process: they can be read again."""
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (start + size) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)
