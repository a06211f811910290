"""How much is computed and kept at once on a CPU.

`budget` keeps to it; `kick plan`, which needs no torch, says beforehand what it comes to.
"""

from __future__ import annotations

TOKENS = 1024  # of one forward
ROWS = 64  # generated at once: more hardly make a step cheaper per row
CACHE_LEAST = 2**26  # bytes that the keys and values of all rows under way may take whatever the model
CACHE_SHARE = 2  # they may take one part in so many of the weights: more rows would save little


def cache(weights: int) -> int:
    """Bytes of keys and values at most, for a model of so many bytes of weights."""
    return max(CACHE_LEAST, weights // CACHE_SHARE)
