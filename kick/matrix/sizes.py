"""Sizes of memory as a matrix file writes them."""

from __future__ import annotations

import re
from typing import Any

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([MG])B")


def in_bytes(value: Any) -> int:
    """4GB, 512 MB -> bytes. Raises ValueError for anything else."""
    found = _SIZE.fullmatch(str(value))
    if found is None:
        raise ValueError("a size such as 4GB or 512MB")
    return int(float(found[1]) * (10**9 if found[2] == "G" else 10**6))
