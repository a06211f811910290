"""Attention over keys and values that lie in several places, for transformers' attention interface.

A model whose attention is set to `NAME` and whose forward gets `layout=` calls the layout in each layer
with the queries, keys and values of its new tokens. The layout computes attention part by part (a shared
prefix once for all its rows, each row's own tokens apart) and joins the parts by their log-sum-exp: the
softmax over all of it, exactly, without a mask over what nobody looks at. No transformers cache is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from kick.model.structure import peculiar

NAME = "kick"
SCORES = 2**28  # held at once where there is no kernel: 1 GiB of them


class Unsupported(Exception):
    """A kind of attention that is not computed here: such a model is run plainly."""


class Layout(Protocol):
    """Where the keys and values of a forward lie, and which of them each of its rows looks at."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention (B, Hq, T, D) of the forward's new tokens in a layer."""


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: Layout | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention for transformers: the layout's if there is one, its own SDPA otherwise."""
    layer = getattr(module, "layer_idx", None)
    if layout is None or layer is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    if more := peculiar(options):
        raise Unsupported(f"attention with {', '.join(more)} cannot be computed in parts")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return layout.attend(layer, query, key, value, scale).transpose(1, 2), None


AttentionInterface.register(NAME, attention)


def partial(
    query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None = None, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Attention of queries (B, Hq, T, D) over keys (B, Hk, S, D), Hq a multiple of Hk: output, log-sum-exp.

    `mask` is added to the scores, (T, S) or (B, 1, 1, S); `causal` (S = T) hides what is later.
    """
    heads, count = key.shape[1], query.shape[2]
    groups = query.shape[1] // heads
    if groups > 1:  # heads that share keys become more queries: nothing is copied
        shape = query.shape
        if mask is None and not causal:
            query = query.reshape(shape[0], heads, groups * count, shape[3])
            out, lse = _kernel(query, key, value, scale, None, False)
            return out.reshape(shape), lse.reshape(shape[:3])
        if count == 1:
            out, lse = _kernel(
                query.reshape(shape[0], heads, groups, shape[3]), key, value, scale, mask, False
            )
            return out.reshape(shape), lse.reshape(shape[:3])
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    return _kernel(query, key, value, scale, mask, causal)


def _kernel(
    query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    if query.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=mask, scale=scale
        )
    return by_products(query, key, value, scale, mask, causal)


def by_products(
    query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """The same by plain products, for devices whose kernels do not give the log-sum-exp of masked scores.

    As many queries at a time as keep to SCORES scores.
    """
    batch, heads, count, _ = query.shape
    keys = key.shape[2]
    step = max(1, SCORES // (batch * heads * keys))
    found = []
    for start in range(0, count, step):
        end = min(start + step, count)
        seen = end if causal else keys  # what is later is hidden anyway
        scores = (query[:, :, start:end] @ key[:, :, :seen].transpose(-1, -2)).float() * scale
        if causal:
            later = torch.ones(end - start, seen, dtype=torch.bool, device=scores.device).triu(start + 1)
            scores.masked_fill_(later, -float("inf"))
        if mask is not None:
            scores += mask if mask.shape[-2] == 1 else mask[..., start:end, :]
        lse = scores.logsumexp(-1)
        found.append((scores.sub_(lse[..., None]).exp_().to(value.dtype) @ value[:, :, :seen], lse))
    outs, lses = zip(*found, strict=True)
    return torch.cat(outs, dim=2), torch.cat(lses, dim=2)


def join(out: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor) -> None:
    """Add the part (more, more_lse) to (out, lse), in place: (..., T, D) and (..., T)."""
    share = torch.sigmoid(more_lse - lse)
    out.lerp_(more, share[..., None].to(out.dtype))
    lse.copy_(torch.logaddexp(lse, more_lse))


@dataclass(frozen=True)
class KV:
    """Keys and values of some consecutive tokens: per layer (Hk, n, D). `users` sequences go through them."""

    keys: list[Tensor]
    values: list[Tensor]
    users: int = 1

    def __len__(self) -> int:
        return self.keys[0].shape[1] if self.keys else 0

    def part(self, start: int, end: int) -> KV:
        """Those of tokens start to end, without a copy."""
        return KV([x[:, start:end] for x in self.keys], [x[:, start:end] for x in self.values])

    def copy(self, users: int) -> KV:
        """The same in memory of its own, so that what this is a part of can be let go."""
        return KV([x.clone() for x in self.keys], [x.clone() for x in self.values], users)


EMPTY = KV([], [])  # of no token


@dataclass(frozen=True)
class Call:
    """Rows start to end look at `source`: a KV, or rows of the same forward; all of it, or by `mask`.

    mask: None (all), "causal" (source = the rows themselves) or a float tensor (rows, rows).
    """

    start: int
    end: int
    source: KV | tuple[int, int]
    mask: Tensor | str | None = None


class PackLayout:
    """One forward over many pieces of text in one row. The first calls must cover every token once."""

    def __init__(self, calls: list[Call], record: bool):
        self.calls = calls
        self.record = record
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """(1, Hq, S, D) from queries (1, Hq, S, D), keys and values (1, Hk, S, D)."""
        if self.record:
            self.keys[layer], self.values[layer] = key[0], value[0]
        out = torch.empty_like(query)
        lse = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
        covered = 0
        for call in self.calls:
            rows = slice(call.start, call.end)
            if isinstance(call.source, KV):
                keys, values = call.source.keys[layer][None], call.source.values[layer][None]
            else:
                source = slice(*call.source)
                keys, values = key[:, :, source], value[:, :, source]
            mask = None if isinstance(call.mask, str) else call.mask
            causal = isinstance(call.mask, str)
            part, part_lse = partial(query[:, :, rows], keys, values, scale, mask, causal)
            if call.start == covered:
                out[:, :, rows], lse[:, :, rows] = part, part_lse
                covered = call.end
            else:
                join(out[:, :, rows], lse[:, :, rows], part, part_lse)
        return out

    def recorded(self) -> KV:
        """Keys and values of all tokens of the forward; of none if they were not recorded."""
        layers = range(len(self.keys))
        if set(layers) != set(self.keys):
            raise Unsupported("some layers have no keys and values")
        return KV([self.keys[i] for i in layers], [self.values[i] for i in layers])
