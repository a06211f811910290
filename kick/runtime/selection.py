"""The papers' choices of keys, pages and tokens, as functions of tensors.

H query heads, S keys, D channels. Masks are True where a key is read.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

VERSION = 1


def rounded(x: Tensor, bits: int, dim: int = -1) -> Tensor:
    """`x` on a grid of 2^bits points from minimum to maximum along `dim`."""
    low, high = x.amin(dim, keepdim=True), x.amax(dim, keepdim=True)
    step = (high - low) / (2**bits - 1)
    step = torch.where(step > 0, step, torch.ones_like(step))
    return ((x - low) / step).round() * step + low


def page_bounds(query: Tensor, keys: Tensor, page: int) -> Tensor:
    """Quest's upper bound of each page's scores, (H, pages): sum over channels of max(q kmax, q kmin).

    query (H, D), keys (H, S, D); the last page may be shorter.
    """
    heads, length, width = keys.shape
    pages = math.ceil(length / page)
    padded = keys.new_zeros(heads, pages * page, width)
    padded[:, :length] = keys
    there = (torch.arange(pages * page, device=keys.device) < length)[None, :, None]
    high = padded.masked_fill(~there, -math.inf).view(heads, pages, page, width).amax(2)
    low = padded.masked_fill(~there, math.inf).view(heads, pages, page, width).amin(2)
    asked = query[:, None]
    return torch.maximum(asked * high, asked * low).sum(-1)


def quest(query: Tensor, keys: Tensor, page: int, budget: int) -> Tensor:
    """Quest's keys, (H, S): the ceil(budget / page) pages with the largest bounds."""
    bounds = page_bounds(query, keys, page)
    count = min(math.ceil(budget / page), bounds.shape[1])
    chosen = torch.zeros_like(bounds, dtype=torch.bool)
    chosen.scatter_(1, bounds.topk(count, dim=1).indices, True)
    return chosen.repeat_interleave(page, 1)[:, : keys.shape[1]]


def top_p(weights: Tensor, p: float) -> Tensor:
    """The smallest set of the weights (H, S), which sum to 1, that reaches p."""
    ordered, order = weights.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(weights, dtype=torch.bool).scatter(-1, order, before < p)


def page_scores(bounds: Tensor, per_page: int) -> Tensor:
    """LServe's scores of pages, (H, pages): the largest bound of a page's sub-pages, an absent one 0."""
    missing = -bounds.shape[1] % per_page
    padded = torch.nn.functional.pad(bounds, (0, missing))
    return padded.view(bounds.shape[0], -1, per_page).amax(-1)


def best_pages(scores: Tensor, budget: int, page: int) -> Tensor:
    """LServe's page numbers, (H, n): the best max(3, budget / page) - 1 older ones, then the newest."""
    pages = scores.shape[1]
    count = min(max(3, budget // page), pages)
    older = scores[:, :-1].topk(count - 1, dim=1).indices if count > 1 else scores.new_zeros(len(scores), 0)
    newest = torch.full((len(scores), 1), pages - 1, device=scores.device)
    return torch.cat([older.long(), newest], dim=1)


def window(length: int, asked: int, sinks: int, recent: int) -> Tensor:
    """What the last `asked` of `length` tokens read, (asked, length): the first `sinks`, the last `recent`.

    A token is the last of its own `recent` ones.
    """
    at = torch.arange(length - asked, length)[:, None]
    key = torch.arange(length)[None]
    return (key < sinks) | (key > at - recent)


def survivors(weights: Tensor, alive: Tensor, count: int) -> Tensor:
    """LazyLLM's choice: the `count` of the tokens alive with the largest weights, and the last one.

    weights (S,): of the last token's attention, averaged over heads; alive (S,): a mask.
    """
    weights = weights.masked_fill(~alive, -math.inf)
    kept = torch.zeros_like(alive)
    kept[weights.topk(min(count, int(alive.sum()))).indices] = True
    kept[-1] = True
    return kept


def attention(query: Tensor, keys: Tensor, scale: float, alive: Tensor | None = None) -> Tensor:
    """Softmax weights (H, S) of one query of each head, (H, D), over the keys (H, S, D) that are `alive`."""
    scores = (keys @ query[..., None])[..., 0].float() * scale
    if alive is not None:
        scores = scores.masked_fill(~alive, -math.inf)
    return scores.softmax(-1)
