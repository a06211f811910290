"""Twilight: the smallest set of keys that holds a share p of the attention, chosen anew at each step.

Lin et al., NeurIPS 2025, arXiv 2502.02770. A selector keeps a generous set (pages as Quest, or all), weights
are estimated from keys of 4 bits, and exact attention runs over the smallest set that reaches p. Sets are
each query head's own; the prompt and the first layers are dense.

Other than the authors' code: their kernel bisects a threshold from the first key's weight, and where the
first key is not the largest it keeps too many; here the set is the smallest one. Their selector's budget is
8,192 tokens, which no prompt here reaches: 256 by default.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from kick.runtime.entry import runtime
from kick.runtime.method import Cache, RunTime, Sight, option
from kick.runtime.selection import attention, quest, rounded, top_p


@runtime(
    "twilight",
    title="Twilight",
    paper="Lin et al., NeurIPS 2025, arXiv 2502.02770",
    affects=("generate",),
    place=10,
    look="pink D -",
)
@dataclass(frozen=True)
class Twilight(RunTime):
    """The smallest set of keys that holds a share p of the attention, at each step and head."""

    p: float = option("share of the attention to be kept", 0.85, low=0.01, high=1)
    selector: str = option("what is chosen from: all, or Quest's pages", "none", choices=("none", "quest"))
    budget: int = option("tokens that the selector keeps", 256, low=1)
    page: int = option("tokens of a page", 16, low=1)
    key_bits: int = option("bits of the keys that weights are estimated from", 4, low=1, high=8)
    dense_layers: int = option("first layers that stay dense", 2, low=0)

    def look(self, sight: Sight) -> Tensor | None:
        """The keys to read while decoding, (Hq, 1, S)."""
        length = sight.keys.shape[1]
        paged = self.selector == "quest" and self.budget < length
        if not sight.decoding or sight.layer < self.dense_layers or (self.p >= 1 and not paged):
            return None
        query, kept = sight.query[:, -1], None
        if paged:
            keys = sight.keys.repeat_interleave(sight.groups, 0)
            kept = quest(query, keys, self.page, self.budget)
        if self.p < 1:
            estimated = rounded(sight.keys, self.key_bits).repeat_interleave(sight.groups, 0)
            weights = attention(query, estimated, sight.scale, kept)
            kept = top_p(weights, self.p) if kept is None else top_p(weights, self.p) & kept
        return None if kept is None else kept[:, None]

    def bytes(self, cache: Cache) -> int:
        """The whole cache, and the estimates: `key_bits` per number, 4 bytes of scale and zero per key."""
        whole = cache.bytes(cache.length)
        if cache.layer < self.dense_layers or self.p >= 1:
            return whole
        return whole + cache.length * cache.heads * (math.ceil(cache.width * self.key_bits / 8) + 4)
