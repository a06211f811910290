"""Attention over chosen pages of the cache, as Quest and LServe choose them.

Quest: Tang et al., ICML 2024, arXiv 2406.10774. LServe: Yang et al., MLSys 2025, arXiv 2502.14866. A page's
score is the largest upper bound of its sub-pages; the best pages and the newest are read, and they are
chosen anew every few steps. `sub_page` equal to `page` is Quest's one level.

Other than LServe's code: scores in the model's dtype, not float16; a budget of at least the length reads all
of it, whatever the length (theirs: up to 4,096 tokens); weights and cache are not quantized. Its streaming
heads (first and recent tokens alone) are chosen by DuoAttention's trained gates, which are published for few
models: here, ours, a layer's streaming heads are those whose first step looks most at first and recent
tokens. Prompts are read densely: LServe's window of 8,192 tokens for them does nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kick.errors import KickError
from kick.runtime.entry import runtime
from kick.runtime.method import Cache, RunTime, Sight, option
from kick.runtime.selection import attention, best_pages, page_bounds, page_scores, window


@runtime(
    "page-attention",
    title="Page attention",
    paper="Quest, Tang et al., ICML 2024, arXiv 2406.10774; "
    "LServe, Yang et al., MLSys 2025, arXiv 2502.14866",
    affects=("generate",),
    place=20,
    look="blue P -",
)
@dataclass(frozen=True)
class PageAttention(RunTime):
    """The pages of the cache with the largest bounds of their scores, and the newest (Quest, LServe)."""

    budget: int = option("tokens that are read", 256, low=1)
    page: int = option("tokens of a page", 16, low=1)
    sub_page: int = option("tokens of a sub-page that is scored; as many as a page: one level", 4, low=1)
    every: int = option("steps after which pages are chosen anew", 4, low=1)
    dense_layers: int = option("first layers that stay dense", 0, low=0)
    streaming: float = option("share of heads that read first and recent tokens alone", 0.0, low=0, high=1)
    sinks: int = option("first tokens that a streaming head reads", 16, low=0)
    recent: int = option("recent tokens that a streaming head reads", 64, low=1)

    def check(self) -> None:
        """Raises KickError if sub-pages do not fill a page."""
        if self.page % self.sub_page:
            raise KickError(f"sub_page is {self.sub_page}; it must divide page, {self.page}")

    def look(self, sight: Sight) -> Tensor | None:
        """The keys to read while decoding, (Hq, 1, S)."""
        if not sight.decoding or sight.layer < self.dense_layers:
            return None
        length = sight.keys.shape[1]
        kept = None if self.budget >= length else self._paged(sight)
        streaming = self._streaming(sight)
        if streaming is not None:
            near = window(length, 1, self.sinks, self.recent).to(sight.keys.device)
            kept = torch.ones_like(near) if kept is None else kept
            kept = torch.where(streaming[:, None], near, kept)
        return None if kept is None else kept[:, None]

    def _paged(self, sight: Sight) -> Tensor:
        """The keys of the pages, (Hq, S); the pages of up to `every` - 1 steps ago, and what came since."""
        length = sight.keys.shape[1]
        step = length - sight.prompt - 1
        place = ("pages", sight.layer)
        if place not in sight.memory or step % self.every == 0:
            keys = sight.keys.repeat_interleave(sight.groups, 0)
            bounds = page_bounds(sight.query[:, -1], keys, self.sub_page)
            scores = page_scores(bounds, self.page // self.sub_page)
            sight.memory[place] = best_pages(scores, self.budget, self.page)
        chosen = sight.memory[place]
        pages = -(-length // self.page)
        mask = torch.zeros(len(chosen), pages, dtype=torch.bool, device=chosen.device)
        mask.scatter_(1, chosen, True)
        mask[:, int(chosen[0, -1]) :] = True  # the page that was the newest then, and those after it
        return mask.repeat_interleave(self.page, 1)[:, :length]

    def bytes(self, cache: Cache) -> int:
        """The whole cache, and two bounds of each channel of a sub-page."""
        whole = cache.bytes(cache.length)
        return (
            whole
            if cache.layer < self.dense_layers
            else whole + cache.bytes(-(-cache.length // self.sub_page))
        )

    def _streaming(self, sight: Sight) -> Tensor | None:
        """The layer's streaming heads, (Hq,): whose first step looks most at first and recent tokens."""
        count = round(self.streaming * sight.query.shape[0])
        if not count:
            return None
        place = ("streaming", sight.layer)
        if place not in sight.memory:
            keys = sight.keys.repeat_interleave(sight.groups, 0)
            weights = attention(sight.query[:, -1], keys, sight.scale)
            near = window(keys.shape[1], 1, self.sinks, self.recent).to(keys.device)
            chosen = torch.zeros(len(keys), dtype=torch.bool, device=keys.device)
            chosen[(weights * near).sum(-1).topk(count).indices] = True
            sight.memory[place] = chosen
        found: Tensor = sight.memory[place]
        return found
