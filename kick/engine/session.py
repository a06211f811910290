"""A sequence with its own cache, whose attention reads what a run-time method reads.

What a method hides is computed and masked: nothing is faster for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kick.engine.packed.attend import KV, partial
from kick.runtime.method import Cache, RunTime, Sight
from kick.runtime.tally import ReadCounts

CHUNK = 256  # queries of a prompt that are masked at once


class Left:
    """What a session keeps of tokens that layers left out.

    inputs: of layers that have fewer tokens than the one before, what goes into them, (prompt, H). had: by
    layer the tokens that have been computed there, (prompt,). given: by layer the block's other arguments.
    flow: tokens on their way up in this step, and their hidden states.
    """

    def __init__(self) -> None:
        self.inputs: dict[int, Tensor] = {}
        self.had: dict[int, Tensor] = {}
        self.given: dict[int, dict[str, Any]] = {}
        self.flow: tuple[Tensor, Tensor] | None = None

    @property
    def width(self) -> int:
        """Numbers of a hidden state that is kept; 0 if none is."""
        return next((one.shape[-1] for one in self.inputs.values()), 0)

    def see(self, layer: int, kept: Tensor | None, hidden: Tensor, given: dict[str, Any]) -> None:
        """Note what of a prompt goes into a layer, hidden (prompt, H), of which it computes `kept`."""
        if kept is None:
            return
        before = self.had.get(layer - 1)
        self.had[layer] = kept.clone()
        self.given[layer] = given
        if before is None or int(kept.sum()) < int(before.sum()):
            self.inputs[layer] = hidden.clone()

    def missing(self, layer: int, kept: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """The tokens that the layer needs and has not had, (n,), and what goes into it of them, (n, H)."""
        if kept is None or layer not in self.had:
            return None
        places = (kept & ~self.had[layer]).nonzero()[:, 0]
        if not len(places):
            return None
        self.had[layer] |= kept
        if layer in self.inputs:
            return places, self.inputs[layer][places]
        if self.flow is None or not torch.equal(self.flow[0], places):
            raise RuntimeError(f"layer {layer} needs tokens that the one before did not have")
        return self.flow

    def carry(self, layer: int, places: Tensor, hidden: Tensor) -> None:
        """Take on what goes into the layer of the tokens at these places."""
        self.flow = places, hidden
        if layer in self.inputs:
            self.inputs[layer][places] = hidden


class Session:
    """One sequence: its keys and values by layer, and what the method remembers of it.

    Args:
        method: what decides which keys are read.
        layers: of the model.
        prompt: tokens of the prompt.
        room: tokens that may follow.
        tally: what is counted, in place.
    """

    def __init__(self, method: RunTime, layers: int, prompt: int, room: int, tally: ReadCounts):
        self.method, self.layers, self.prompt, self.room = method, layers, prompt, room
        self.tally = tally
        self.memory: dict[Any, Any] = {}
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.settled: dict[int, tuple[int, int]] = {}
        self.filled: dict[int, int] = {}
        self.left = Left()
        self.chooses = False  # whether the tokens that follow choose anew what they read of the prompt

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self.filled.get(self.layers - 1, 0)

    @property
    def nbytes(self) -> int:
        """Bytes that the cache takes here, rounded or not."""
        return sum(one.nbytes for part in (self.keys, self.values) for one in part.values())

    def take(self, spans: Sequence[KV]) -> None:
        """Fill the cache with a prompt that was read densely."""
        for layer in range(self.layers):
            keys = torch.cat([span.keys[layer] for span in spans], dim=1)
            values = torch.cat([span.values[layer] for span in spans], dim=1)
            self._append(layer, keys, values)
            self._count_prompt(layer, keys, keys.shape[1] * (keys.shape[1] + 1) // 2, None)

    def read_through(self, layer: int, query: Tensor, scale: float) -> None:
        """Tell the method of the prompt's last query (Hq, 1, D), once its layer has been read."""
        self.method.after(self._sight(layer, query, self._keys(layer), scale, decoding=False))

    def close(self) -> None:
        """Count what the cache holds."""
        for layer, keys in self.keys.items():
            heads, _, width = keys.shape
            size = keys.element_size()
            cache = Cache(layer, self.filled[layer], heads, width, size, self.memory, self.left.width)
            self.tally.cache += self.method.bytes(cache)
            self.tally.whole += cache.bytes(cache.length)
        self.tally.sequences += 1
        self.tally.tokens += self.prompt

    def back_to(self, length: int, memory: dict[Any, Any]) -> None:
        """Forget what came after the first `length` tokens."""
        self.filled = dict.fromkeys(self.filled, length)
        self.memory = memory

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention (Hq, n, D) of n new tokens: query (Hq, n, D), key and value (Hk, n, D)."""
        before = self.filled.get(layer, 0)
        decoding = before >= self.prompt
        self._append(layer, key, value)
        keys, values = self._keys(layer), self.values[layer][:, : self.filled[layer]]
        if decoding:
            self.settled[layer] = self.method.settle(
                keys[:, :before], values[:, :before], self.settled.get(layer, (0, 0))
            )
        out, read = self._attended(layer, query, keys, values, (scale, decoding))
        there = query.shape[0] * sum(range(before + 1, before + query.shape[1] + 1))
        if decoding:
            self.tally.read += read
            self.tally.there += there
        else:
            self._count_prompt(layer, keys, there // query.shape[0], read // query.shape[0])
            self.read_through(layer, query[:, -1:], scale)
        if decoding and self.chooses:
            self.method.again(self._sight(layer, query[:, -1:], keys, scale, decoding))
        return out

    def _attended(
        self, layer: int, query: Tensor, keys: Tensor, values: Tensor, how: tuple[float, bool]
    ) -> tuple[Tensor, int]:
        """The attention of the last n tokens, and how many pairs of a query and a key were read."""
        scale, decoding = how
        heads, count, _ = query.shape
        length = keys.shape[1]
        parts, masks, read = [], [], 0
        for start in range(0, count, CHUNK):
            rows = slice(start, min(start + CHUNK, count))
            seen = length - count + rows.stop
            sight = self._sight(layer, query[:, rows], keys[:, :seen], scale, decoding)
            masks.append((rows, seen, self.method.look(sight)))
        if all(mask is None or bool(mask.all()) for _, _, mask in masks):
            pairs = heads * sum(range(length - count + 1, length + 1))
            return dense(query, keys, values, scale), pairs
        for rows, seen, mask in masks:
            asked = rows.stop - rows.start
            shown = torch.ones(asked, seen, dtype=torch.bool, device=keys.device).tril(seen - asked)[None]
            shown = shown if mask is None else shown & mask
            read += int(shown.sum()) * (heads // shown.shape[0])
            parts.append(masked(query[:, rows], keys[:, :seen], values[:, :seen], scale, shown))
        return torch.cat(parts, dim=1), read

    def _sight(self, layer: int, query: Tensor, keys: Tensor, scale: float, decoding: bool) -> Sight:
        return Sight(layer, self.layers, query, keys, scale, self.prompt, decoding, self.memory)

    def _keys(self, layer: int) -> Tensor:
        return self.keys[layer][:, : self.filled[layer]]

    def _append(self, layer: int, key: Tensor, value: Tensor) -> None:
        heads, count, width = key.shape
        start = self.filled.get(layer, 0)
        if layer not in self.keys:
            room = max(self.prompt, count) + self.room
            self.keys[layer] = key.new_empty(heads, room, width)
            self.values[layer] = value.new_empty(heads, room, value.shape[-1])
        self.keys[layer][:, start : start + count] = key
        self.values[layer][:, start : start + count] = value
        self.filled[layer] = start + count

    def _count_prompt(self, layer: int, keys: Tensor, there: int, read: int | None) -> None:
        sight = self._sight(layer, keys[:, -1:], keys, 1.0, decoding=False)
        self.tally.computed += self.method.computed(sight)
        self.tally.prompts += self.prompt
        self.tally.prompt_read += there if read is None else read
        self.tally.prompt_there += there


def dense(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Attention (Hq, n, D) of the last n of S tokens over all before them, by the packed backend's kernel."""
    count, length = query.shape[1], keys.shape[1]
    if count == length:
        return partial(query[None], keys[None], values[None], scale, causal=True)[0][0]
    if count == 1:
        return partial(query[None], keys[None], values[None], scale)[0][0]
    shown = torch.ones(count, length, dtype=torch.bool, device=keys.device).tril(length - count)
    mask = torch.zeros(count, length, dtype=query.dtype, device=keys.device).masked_fill(~shown, -math.inf)
    return partial(query[None], keys[None], values[None], scale, mask)[0][0]


def masked(query: Tensor, keys: Tensor, values: Tensor, scale: float, shown: Tensor) -> Tensor:
    """Attention (Hq, n, D) over the keys that are shown, (Hq or 1, n, S); 0 if there are none."""
    heads, count, width = query.shape
    groups = heads // keys.shape[0]
    asked = query.reshape(keys.shape[0], groups * count, width)
    scores = (asked @ keys.transpose(1, 2)).float().view(heads, count, -1) * scale
    weights = scores.masked_fill_(~shown, -math.inf).softmax(-1)
    weights = weights.masked_fill_(~shown.any(-1, keepdim=True), 0.0).to(values.dtype)
    out = weights.view(keys.shape[0], groups * count, -1) @ values
    return out.view(heads, count, -1)


class Sessions:
    """The layout of one forward: `counts` new tokens of each session side by side in one row."""

    def __init__(self, sessions: Sequence[Session], counts: Sequence[int]):
        self.sessions, self.counts = sessions, counts

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """(1, Hq, S, D) from queries (1, Hq, S, D), keys and values (1, Hk, S, D)."""
        parts, start = [], 0
        for session, count in zip(self.sessions, self.counts, strict=True):
            rows = slice(start, start + count)
            parts.append(session.attend(layer, query[0, :, rows], key[0, :, rows], value[0, :, rows], scale))
            start += count
        return torch.cat(parts, dim=1)[None]
