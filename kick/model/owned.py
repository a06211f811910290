"""Weights in memory of the model's own, instead of in the mapped files of its checkpoint.

transformers maps a checkpoint: a page that was read once stays with the process until the last tensor of the
file has gone, also where a method has long put another weight in its place. A weight of its own memory goes
when it is replaced. An embedding stays in the file: a job looks up the rows of its own tokens. Who reads all
of it, as the head of a model that ties the two or to compare it, lets the pages go again.
"""

from __future__ import annotations

import ctypes
import mmap
from bisect import bisect
from pathlib import Path

import torch
from torch import Tensor, nn

from kick.model.heap import apart

MAPS = Path("/proc/self/maps")  # where there is none, weights stay where they are
DETAILS = Path("/proc/self/smaps")  # the same, with what is resident of each range


@torch.no_grad()
def own(model: nn.Module) -> None:
    """Copy the weights that lie in mapped safetensors out of them, in place, and let go the pages read.

    Not those that are looked up by row.
    """
    mapped = _mapped()
    looked_up = {id(m.weight) for m in model.modules() if type(m) is nn.Embedding}
    for tensor in [*model.parameters(), *model.buffers()]:
        if id(tensor) not in looked_up and _within(mapped, tensor):
            start, size = tensor.data_ptr(), tensor.nbytes
            with apart():
                tensor.data = tensor.data.clone()
            _drop(start, size)


def let_go(tensor: Tensor) -> None:
    """Drop the pages of a tensor in a mapped file of safetensors; the next who reads it reads the file again.

    Nothing happens to a tensor that lies elsewhere, or in a file of which a page was written to: what was
    written is in this process's memory alone.
    """
    if _within(_mapped(), tensor) and _within(_unwritten(), tensor):
        _drop(tensor.data_ptr(), tensor.nbytes)


def _within(spans: list[tuple[int, int]], tensor: Tensor) -> bool:
    """Whether a tensor lies in one of the spans as a whole, and nothing else between its ends."""
    if type(tensor.data) is not Tensor or tensor.device.type != "cpu" or not tensor.is_contiguous():
        return False
    start, size = tensor.data_ptr(), tensor.nbytes
    return any(first <= start and start + size <= last for first, last in _around(spans, start))


def _mapped() -> list[tuple[int, int]]:
    """The addresses of mapped safetensors, in order: first, and the one after the last."""
    if not MAPS.exists():
        return []
    return sorted(filter(None, map(_span, MAPS.read_text().splitlines())))


def _unwritten() -> list[tuple[int, int]]:
    """Those of which this process has written to no page."""
    if not DETAILS.exists():
        return []
    found: list[tuple[int, int]] = []
    span: tuple[int, int] | None = None
    for line in DETAILS.read_text().splitlines():
        if not line.split(maxsplit=1)[0].endswith(":"):  # a range; what is said of it follows
            span = _span(line)
        elif span is not None and line.split()[:2] == ["Anonymous:", "0"]:
            found.append(span)
    return sorted(found)


def _span(line: str) -> tuple[int, int] | None:
    """The range of addresses in a line of MAPS, if it is of safetensors."""
    if not line.endswith(".safetensors"):
        return None
    first, last = line.split(maxsplit=1)[0].split("-")
    return int(first, 16), int(last, 16)


def _around(mapped: list[tuple[int, int]], address: int) -> list[tuple[int, int]]:
    place = bisect(mapped, (address + 1, 0))
    return mapped[max(0, place - 1) : place]


def _drop(start: int, size: int) -> None:
    """Drop the whole pages of a range of a mapped file from this process: they can be read again."""
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (start + size) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)
