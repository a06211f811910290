"""Memory that was freed, given back to the system: the C library keeps what lies between pieces in use."""

from __future__ import annotations

import ctypes
from functools import cache


@cache
def _trim() -> ctypes._NamedFuncPointer | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Return freed pages of the heap to the system, where the C library can."""
    trim = _trim()
    if trim is not None:
        trim(0)
