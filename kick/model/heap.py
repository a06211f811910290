"""Where memory comes from, so that it goes back to the system when it is freed.

The C library puts pieces of up to 32 MB side by side into one heap. Weights and activations there leave holes
that are neither in use nor given back. What is large and lives long is therefore asked of the system apart:
`apart` for what others allocate, `room` for tensors of our own.
"""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's names of what `mallopt` sets, less "M_"
PIECE = 2**17  # bytes from which on a piece lies apart; glibc's own threshold before it grows
LARGEST = 2**25  # what glibc's own threshold grows to once large pieces have been freed
STATM = Path("/proc/self/statm")
SLACK = 2**25  # bytes that a process may grow by before its heap is given back
TOP = 2**26  # bytes free at the heap's end that are kept: twice LARGEST, as glibc has it then


@cache
def _function(name: str) -> ctypes._NamedFuncPointer | None:
    return getattr(ctypes.CDLL(None), name, None)


def give_back() -> None:
    """Return freed pages of the heap to the system, where the C library can."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


@dataclass
class Ebb:
    """Gives the heap back when called, if the process has grown by so many bytes since it last did.

    What was freed between pieces in use is resident until then, and the next large piece may not fit there.
    """

    slack: int = SLACK
    level: int = 0  # bytes resident when the heap was last given back, or less

    def __call__(self) -> None:
        """Called often: if there is nothing to give back it takes some microseconds."""
        now = resident()
        if now > self.level + self.slack:
            give_back()
            now = resident()
        elif now > self.level:
            return
        self.level = now


def resident() -> int:
    """Bytes of this process in memory, 0 if the system does not say."""
    return int(STATM.read_text().split()[1]) * mmap.PAGESIZE if STATM.exists() else 0


@contextmanager
def apart(least: int = PIECE) -> Iterator[None]:
    """Within it pieces of `least` bytes and more lie outside the heap, where the C library can do that.

    It is the process's setting, of all threads: what another one allocates meanwhile lies apart too, which
    costs it the pages and nothing else.
    """
    option = _function("mallopt")
    if option is None:
        yield
        return
    option(MMAP_THRESHOLD, least)
    try:
        yield
    finally:
        option(MMAP_THRESHOLD, LARGEST)
        option(TRIM_THRESHOLD, TOP)


def room(shape: Sequence[int], like: Tensor) -> Tensor:
    """Zeros of that shape, with the type and the device of `like`; on a CPU in memory of their own, of which
    only pages that are written to become resident."""
    size = math.prod(shape) * like.element_size()
    if like.device.type != "cpu" or size < PIECE:
        return like.new_zeros(shape)
    return untouched(shape, like.dtype)


def untouched(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros on a CPU whose pages are given memory as they are written to, in small pages."""
    count = math.prod(shape)
    pages = mmap.mmap(-1, max(count * dtype.itemsize, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype, count=count).view(tuple(shape))
