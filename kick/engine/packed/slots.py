"""Keys and values of the rows that are being generated, each row with its own length, in one buffer.

What a row shares with others (a few-shot header) lies in common `KV`s; its own tokens lie in its slot.
Rows enter and leave at any step; there is no padding but the buffer's unused end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kick.engine.packed.attend import KV, join, partial
from kick.engine.stopping import Decoding
from kick.model.heap import room

GRAIN = 8  # the buffer's length is a multiple of this
SHARED = (64, 4)  # tokens and rows from which on a common piece is left where it is, and not copied


@dataclass(eq=False)
class Row:
    """A row in progress: its answer, the shared keys and values before its own, how many are its own."""

    index: int
    decoding: Decoding
    spans: tuple[KV, ...]
    length: int

    def keep(self, tail: KV) -> tuple[KV, ...]:
        """The pieces that its slot has to hold: its own, and those that are not worth sharing."""
        own = tuple(kv for kv in self.spans if len(kv) < SHARED[0] or kv.users < SHARED[1])
        self.spans = tuple(kv for kv in self.spans if not any(kv is piece for piece in own))
        last = tail.part(0, self.length)
        self.length += sum(map(len, own))
        return (*own, last)

    @property
    def room(self) -> int:
        """Own tokens that it may come to hold."""
        return self.length + self.decoding.limit - len(self.decoding.tokens) + 1


class Slots:
    """The layout of a decoding step: one new token for each row."""

    def __init__(self, memory: int, most: int):
        self.memory = memory  # bytes that the buffers may take
        self.most = most
        self.rows: list[Row] = []
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.shared: list[tuple[KV, Tensor]] = []
        self.changed = True

    # ------------------------------------------------------------------------------------ rows

    def fits(self, row: Row) -> bool:
        """Whether one more row may enter."""
        return not self.rows or len(self.rows) < min(self.most, self._rows(self._length(row)))

    def _length(self, row: Row) -> int:
        """Tokens that each row of the buffers has room for if this one enters: fewer than it has now only if
        half of them are enough."""
        needed = max(one.room for one in (row, *self.rows))
        needed = -(-needed // GRAIN) * GRAIN
        have = self.keys[0].shape[2] if self.keys else 0
        return needed if 2 * needed <= have else max(have, needed)

    def _rows(self, length: int) -> int:
        """Rows of that length that the buffers may have."""
        token = sum(2 * k.shape[1] * k.shape[3] * k.element_size() for k in self.keys)
        return self.memory // (length * token)

    def enter(self, row: Row, pieces: tuple[KV, ...]) -> None:
        """Take a row in, with the keys and values that its slot has to hold."""
        self._reserve(len(self.rows) + 1, self._length(row), pieces[-1])
        place, start = len(self.rows), 0
        for kv in pieces:
            end = start + len(kv)
            for layer, (keys, values) in enumerate(zip(kv.keys, kv.values, strict=True)):
                self.keys[layer][place, :, start:end] = keys
                self.values[layer][place, :, start:end] = values
            start = end
        self.rows.append(row)
        self.changed = True

    def leave(self, place: int) -> None:
        """Let a row go; the last one takes its place."""
        last = self.rows.pop()
        if place < len(self.rows):
            self.rows[place] = last
            for buffer in (*self.keys, *self.values):
                buffer[place, :, : last.length] = buffer[len(self.rows), :, : last.length]
        self.changed = True

    def _reserve(self, rows: int, length: int, like: KV) -> None:
        """Buffers (R, Hk, T, D) with room for so many rows of that length."""
        if not self.keys:
            for of, buffers in ((like.keys, self.keys), (like.values, self.values)):
                buffers += [room((rows, x.shape[0], length, x.shape[2]), x) for x in of]
            return
        have = self.keys[0].shape
        if rows <= have[0] and length == have[2]:
            return
        high = max(rows, min(self.most, max(have[0], 2 * len(self.rows)), self._rows(length)))
        used = max((row.length for row in self.rows), default=0)
        for buffers in (self.keys, self.values):
            for layer, old in enumerate(buffers):
                new = room((high, old.shape[1], length, old.shape[3]), old)
                new[: len(self.rows), :, :used] = old[: len(self.rows), :, :used]
                buffers[layer] = new

    # ------------------------------------------------------------------------------------ a step

    def begin(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Token ids and positions (R, 1) of the step that follows; its attention is prepared."""
        lengths = torch.tensor([row.length for row in self.rows], device=device)
        self.write = lengths
        self.every = torch.arange(len(self.rows), device=device)
        self.width = int(lengths.max()) + 1
        beyond = torch.arange(self.width, device=device)[None] > lengths[:, None]
        mask = torch.zeros(beyond.shape, dtype=self.keys[0].dtype, device=device)
        self.mask = mask.masked_fill_(beyond, -float("inf"))[:, None, None]
        if self.changed:
            members: dict[int, tuple[KV, list[int]]] = {}
            for place, row in enumerate(self.rows):
                for span in row.spans:
                    members.setdefault(id(span), (span, []))[1].append(place)
            self.shared = [(kv, torch.tensor(places, device=device)) for kv, places in members.values()]
            self.changed = False
        decodings = [row.decoding for row in self.rows]
        ids = torch.tensor([[d.tokens[-1]] for d in decodings], device=device)
        positions = torch.tensor([[len(d.prompt) + len(d.tokens) - 1] for d in decodings], device=device)
        return ids, positions

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """(R, Hq, 1, D) from the rows' queries (R, Hq, 1, D), keys and values (R, Hk, 1, D)."""
        keys, values = self.keys[layer], self.values[layer]
        keys[self.every, :, self.write] = key[:, :, 0]
        values[self.every, :, self.write] = value[:, :, 0]
        count, heads = len(self.rows), key.shape[1]
        own = slice(0, count), slice(None), slice(0, self.width)
        out, lse = partial(query, keys[own], values[own], scale, self.mask)
        for kv, places in self.shared:
            few = query[places].unflatten(1, (heads, -1))[:, :, :, 0]  # (n, Hk, G, D)
            n, groups = few.shape[0], few.shape[2]
            flat = few.transpose(0, 1).reshape(1, heads, n * groups, -1)
            part, part_lse = partial(flat, kv.keys[layer][None], kv.values[layer][None], scale)
            part = part[0].unflatten(1, (n, groups)).transpose(0, 1).reshape(n, heads * groups, 1, -1)
            part_lse = part_lse[0].unflatten(1, (n, groups)).transpose(0, 1).reshape(n, heads * groups, 1)
            joined, joined_lse = out[places], lse[places]
            join(joined, joined_lse, part, part_lse)
            out[places], lse[places] = joined, joined_lse
        return out

    def end(self) -> None:
        """The step's tokens belong to their rows now."""
        for row in self.rows:
            row.length += 1
