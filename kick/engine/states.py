"""Texts as one vector each: the hidden states after a share of the blocks, pooled over tokens.

    "mean-50"      the mean over tokens of what half of the blocks give
    "weighted-50"  the n-th token counts n times, as in `last-n`'s contrastive loss (L3Prune)
    "last-100"     the last token's state after all blocks

States of any depth go through the model's last norm, as those of a model cut off there would. Nothing is
trained: of a language model these are poor embeddings, and what says something is how much they change.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kick.compress.methods.last_n import giving, weighted_mean
from kick.engine.encode import Encoder
from kick.engine.network import Network, mask_of, pad_right
from kick.errors import KickError
from kick.model import blocks
from kick.records import Request, Response

DIGITS = 7  # after the point, of a cosine
POOLINGS = ("mean", "weighted", "last")


def similarities(
    network: Network, encoder: Encoder, requests: Sequence[Request], batch_tokens: int
) -> Iterator[tuple[int, Response]]:
    """The response to each request by its index; each text is read once. Raises KickError for a pooling that
    is not known, or a model whose blocks have no states of tokens."""
    texts = list(dict.fromkeys(text for one in requests for text in (one.context, *one.others)))
    ids = [found or (encoder.prefix,) for found in encoder.scored(texts)]
    cut = [max(0, len(one) - encoder.max_length) for one in ids]
    pooled = list(dict.fromkeys(name for one in requests for name in one.pooled))
    vectors = embedded(network, [one[: encoder.max_length] for one in ids], pooled, batch_tokens)
    place = {text: number for number, text in enumerate(texts)}
    shared: tuple[str, ...] | None = None
    others: list[int] = []
    for index, request in enumerate(requests):
        own = place[request.context]
        if request.others is not shared:
            shared, others = request.others, [place[text] for text in request.others]
        values: dict[str, float] = {}
        for name in request.pooled:
            depth = pooled.index(name)
            cosines = [round(one, DIGITS) for one in (vectors[others, depth] @ vectors[own, depth]).tolist()]
            chosen = nearest(cosines, request.top) if request.top else range(len(cosines))
            values |= {f"{name} {number}": cosines[number] for number in chosen}
        yield index, Response(values=values, truncated=sum(cut[number] for number in (own, *others)))


def nearest(cosines: Sequence[float], top: int) -> list[int]:
    """The places of the `top` highest cosines, of equal ones the last first, as trec_eval ranks ids in their
    order; none if one of all is not a number."""
    values = np.array(cosines)
    if np.isnan(values).any():
        return []
    least = np.partition(values, -top)[-top] if top < len(values) else -math.inf
    able = np.flatnonzero(values >= least)
    found: list[int] = able[np.lexsort((able, values[able]))][::-1][:top].tolist()
    return found


def embedded(
    network: Network, rows: Sequence[tuple[int, ...]], pooled: Sequence[str], batch_tokens: int
) -> Tensor:
    """Vectors of unit length (texts, poolings, H) in float32 of texts given by their token ids."""
    found: dict[int, Tensor] = {}
    left = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
    while left:
        size = 1 if network.manner.alone else max(1, batch_tokens // len(rows[left[0]]))
        part, left = left[:size], left[size:]
        found |= dict(zip(part, _batch(network, [rows[number] for number in part], pooled), strict=True))
    return torch.stack([found[number] for number in range(len(rows))])


def _batch(network: Network, rows: list[tuple[int, ...]], pooled: Sequence[str]) -> Tensor:
    """The vectors (rows, poolings, H) of a batch."""
    modules = blocks(network.model)
    named = [parsed(name, len(modules)) for name in pooled]
    outputs: dict[int, Any] = {}

    def catch(depth: int) -> Any:
        return lambda _module, _inputs, output: outputs.update({depth: output})

    handles = [
        modules[depth - 1].register_forward_hook(catch(depth)) for depth in {depth for _, depth in named}
    ]
    try:
        network.whole(rows)
    finally:
        for handle in handles:
            handle.remove()
    ids, mask = pad_right(rows, network.device), mask_of(rows, network.device)
    vectors = {}
    for depth, output in outputs.items():
        with giving(modules, output):
            states = network.model.base_model(input_ids=ids, use_cache=False)[0]
        if states.shape[:2] != ids.shape:
            raise KickError("this model's blocks give no state per token, so that texts cannot be compared")
        vectors[depth] = states
    return torch.stack([_pool(vectors[depth], mask, how) for how, depth in named], dim=1)


def parsed(name: str, count: int) -> tuple[str, int]:
    """The pooling and the number of blocks, of `count`, of a name such as "mean-50". Raises KickError."""
    how, _, percent = name.partition("-")
    if how not in POOLINGS or not percent.isdigit() or not 0 < int(percent) <= 100:
        raise KickError(
            f"pooled: got {name!r}; expected: {', '.join(POOLINGS)} and a per cent of the blocks, as mean-50"
        )
    return how, max(1, math.ceil(int(percent) * count / 100))


def _pool(states: Tensor, mask: Tensor, how: str) -> Tensor:
    """States (rows, tokens, H) as vectors of unit length (rows, H)."""
    states = states.float()
    if how == "last":
        pooled = states[torch.arange(len(states), device=states.device), mask.sum(dim=1) - 1]
    elif how == "weighted":
        pooled = weighted_mean(states, mask)
    else:
        pooled = (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    return nn.functional.normalize(pooled, dim=-1).cpu()
