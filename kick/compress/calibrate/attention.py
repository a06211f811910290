"""Causal attention that leaves out more of what nobody looks at, for the forwards of a calibration pass.

torch's CPU kernel works on 512 keys at a time, so that sequences of up to that length are computed as if
every token looked at all of them. Taken a few queries at a time, with the keys up to there, a third is saved.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from kick.model.structure import attending, device_of, peculiar

NAME = "kick_calibration"
QUERIES = 64  # taken at a time
LENGTHS = range(2 * QUERIES, 1025)  # of a sequence: shorter gain nothing, longer the kernel splits itself


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention function: ours where every token looks at all before it, its SDPA elsewhere."""
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    plain = attention_mask is None and causal and not options.get("dropout") and not torch.is_grad_enabled()
    length = query.shape[2]
    if not plain or peculiar(options) or length not in LENGTHS or key.shape[2] != length:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    return in_parts(query, key, value, scaling), None


AttentionInterface.register(NAME, attention)


def in_parts(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """Causal attention (B, T, H, E) of queries (B, H, T, D), QUERIES tokens at a time.

    Keys are (B, G, T, D), values (B, G, T, E): the H / G heads that share them are rows of one product.
    """
    batch, heads, length, size = query.shape
    groups = key.shape[1]
    each = heads // groups
    rows = query.reshape(batch, groups, each, length, size).transpose(2, 3).flatten(2, 3)
    mask = _mask(QUERIES, each, length, query.dtype)
    out = query.new_empty(batch, length, groups, each, value.shape[-1])
    for start in range(0, length, QUERIES):
        end = min(start + QUERIES, length)
        seen = mask[(start - end) * each :, length - end :]
        part = nn.functional.scaled_dot_product_attention(
            rows[:, :, start * each : end * each],
            key[:, :, :end],
            value[:, :, :end],
            attn_mask=seen,
            scale=scale,
        )
        out[:, start:end] = part.unflatten(2, (-1, each)).transpose(1, 2)
    return out.flatten(2, 3)


@lru_cache(maxsize=1)
def _mask(queries: int, each: int, length: int, dtype: torch.dtype) -> Tensor:
    """Of the last queries, (queries * each, length); others' is its end."""
    mask = torch.zeros(queries, length, dtype=dtype)
    mask[:, -queries:] = torch.full((queries, queries), -float("inf")).triu_(1)
    return mask.repeat_interleave(each, 0)


def ours(model: nn.Module) -> AbstractContextManager[None]:
    """Within it a model on the CPU with SDPA attention has ours; masks are to be made before."""
    return attending(model, NAME, "sdpa") if device_of(model).type == "cpu" else nullcontext()
