"""A cache of few bits, as KIVI: keys per channel, values per token.

Liu et al., ICML 2024, arXiv 2402.02750. `group` tokens of a channel share a scale and a zero among the keys,
`group` channels of a token among the values; the last tokens stay as they are until they are `residual`
many. Prompts are read with their own keys and values; what is generated after them reads the rounded ones.
Keys are rounded after the rotary embedding, as the authors do. Simulated: numbers are rounded and kept in
the model's dtype. The authors' residual is 128 tokens; here 32 by default, for prompts of some hundreds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from kick.errors import KickError
from kick.runtime.entry import runtime
from kick.runtime.method import Cache, RunTime, option
from kick.runtime.selection import rounded

NONE = 16  # bits at which nothing is rounded
SCALES = 4  # bytes of a group's scale and zero


@runtime(
    "kv-quant",
    title="KIVI's cache",
    paper="Liu et al., ICML 2024, arXiv 2402.02750",
    affects=("generate",),
    place=40,
    look="orange P -",
)
@dataclass(frozen=True)
class KVQuant(RunTime):
    """Keys per channel and values per token, rounded to a few bits (KIVI)."""

    bits: int = option("bits of a number of the cache; 16: as it is", low=1, high=16)
    group: int = option("numbers that share a scale", 32, low=1)
    residual: int = option("last tokens that stay as they are", 32, low=1)

    def check(self) -> None:
        """Raises KickError if groups do not fill the residual part."""
        if self.residual % self.group:
            raise KickError(f"residual is {self.residual}; it must be a multiple of group, {self.group}")

    def settle(self, keys: Tensor, values: Tensor, done: tuple[int, int]) -> tuple[int, int]:
        """Round keys up to the last whole `residual` tokens, values up to the last `residual` of them."""
        if self.bits >= NONE:
            return done
        heads, length, width = keys.shape
        if width % self.group:
            raise KickError(f"kv-quant: group is {self.group}; it must divide the heads' width, {width}")
        until = length - length % self.residual, max(0, length - self.residual)
        (k, v), (k_end, v_end) = done, until
        if k_end > k:
            part = keys[:, k:k_end].reshape(heads, -1, self.group, width)
            keys[:, k:k_end] = rounded(part, self.bits, 2).reshape(heads, -1, width)
        if v_end > v:
            part = values[:, v:v_end].reshape(heads, v_end - v, -1, self.group)
            values[:, v:v_end] = rounded(part, self.bits).reshape(heads, -1, width)
        return max(k, k_end), max(v, v_end)

    def bytes(self, cache: Cache) -> int:
        """Bytes of the rounded numbers with their scales, and of those that stay as they are."""
        if self.bits >= NONE:
            return cache.bytes(cache.length)
        keys = cache.length - cache.length % self.residual
        values = max(0, cache.length - self.residual)
        numbers = (keys + values) * cache.heads * cache.width
        packed = math.ceil(numbers * self.bits / 8) + numbers // self.group * SCALES
        return packed + (2 * cache.length - keys - values) * cache.heads * cache.width * cache.size
