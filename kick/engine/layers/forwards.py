"""The forwards that give many readings: trees of shared prefixes if packs may be trusted, else padded rows.

What is asked does not depend on how the forwards are run: in one pass over blocks that are read one after
another (`reader`), or from a block on (`kick.study.dropping`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from kick.engine import whole
from kick.engine.layers.passes import Forward
from kick.engine.network import Network, mask_of, pad_right
from kick.engine.packed.attend import PackLayout
from kick.engine.packed.pack import Pack, gather
from kick.engine.packed.tree import Node, common, grow
from kick.engine.reader import Reader

WORTH = 16  # tokens that sharing a prefix must save


class SharedForward(Protocol):
    """Several readings in one forward. `forward` is the call; `found` takes one that was run, which may be
    another model's."""

    forward: Forward
    tokens: int

    def found(self, forward: Forward) -> whole.Found:
        """The states of its readings; the forward's own are let go."""


class TreeForward:
    """Readings that go into one forward as a tree of shared prefixes."""

    def __init__(self, network: Network, readings: Sequence[whole.Reading], chosen: Sequence[int]):
        self.chosen, self.counts = list(chosen), [readings[i][1] for i in chosen]
        self.root = grow([readings[i][0] for i in chosen], lambda tokens, n: tokens * (n - 1) >= WORTH)
        for node in self.root.below():
            for reading in node.readings:
                node.want(self.counts[reading])
        self.pack = Pack(network.device)
        for child in self.root.children:
            self.pack.add(child, (), True)
        layout = PackLayout(self.pack.own + self.pack.shared, False)
        positions = torch.tensor([self.pack.positions], device=network.device)
        ids = torch.tensor([self.pack.ids], device=network.device)
        self.forward = Forward(ids, {"position_ids": positions, "layout": layout}, network.ours)
        self.tokens = len(self.pack.ids)

    def found(self, forward: Forward) -> whole.Found:
        """The states of its readings; the forward's own are let go."""
        hidden = _taken(forward)[0]
        ends: list[Node] = []
        for node, start, _ in self.pack.placed:
            end = start + len(node.ids)
            node.hidden = hidden[end - node.wanted : end]
            ends += [node] if node.readings else []
        found = [(self.chosen[one], gather(node, self.counts[one])) for node in ends for one in node.readings]
        for node, _, _ in self.pack.placed:
            node.hidden = None  # variants share the tree: it must not keep the states of the last one
        return found


class RowsForward:
    """Readings that go into one forward as padded rows."""

    def __init__(self, network: Network, readings: Sequence[whole.Reading], chosen: Sequence[int]):
        self.readings = [(i, len(readings[i][0]), readings[i][1]) for i in chosen]
        rows = [readings[i][0] for i in chosen]
        mask = {"attention_mask": mask_of(rows, network.device)} if network.manner.mask else {}
        self.forward = Forward(pad_right(rows, network.device), mask, network.native)
        self.tokens = self.forward.tokens

    def found(self, forward: Forward) -> whole.Found:
        """The states of its readings; the forward's own are let go."""
        hidden = _taken(forward)
        return [(i, hidden[row, end - count : end]) for row, (i, end, count) in enumerate(self.readings)]


def _taken(forward: Forward) -> Tensor:
    if forward.hidden is None:
        raise RuntimeError("a forward has not been run")
    hidden, forward.hidden = forward.hidden, None
    return hidden


def forwards(reader: Reader, readings: Sequence[whole.Reading]) -> Iterator[SharedForward]:
    """The forwards of a reader's network that give these readings, of about its `batch_tokens` each."""
    trusted = reader.trusted
    fits = [reader.packed and (trusted is None or len(ids) <= trusted) for ids, _ in readings]
    yield from _trees(reader, readings, [i for i, one in enumerate(fits) if one])
    yield from _rows(reader, readings, [i for i, one in enumerate(fits) if not one])


def _trees(reader: Reader, readings: Sequence[whole.Reading], chosen: Sequence[int]) -> Iterator[TreeForward]:
    """Forwards of neighbours in the order of their tokens, as many as a forward holds."""
    order = sorted(chosen, key=lambda i: readings[i][0])
    group: list[int] = []
    size = 0
    for i in order:
        ids = readings[i][0]
        more = len(ids) - (common(readings[group[-1]][0], ids) if group else 0)
        if group and size + more > reader.batch_tokens:
            yield TreeForward(reader.network, readings, group)
            group, size, more = [], 0, len(ids)
        group.append(i)
        size += more
    if group:
        yield TreeForward(reader.network, readings, group)


def _rows(reader: Reader, readings: Sequence[whole.Reading], chosen: Sequence[int]) -> Iterator[RowsForward]:
    """Forwards of whole rows padded on the right, longest first."""
    order = sorted(chosen, key=lambda i: -len(readings[i][0]))
    while order:
        longest = len(readings[order[0]][0])
        part = order[: 1 if reader.network.manner.alone else max(1, reader.batch_tokens // longest)]
        if reader.stretched is not None and longest > reader.stretched:
            part = [i for i in part if len(readings[i][0]) == longest]
        order = order[len(part) :]
        yield RowsForward(reader.network, readings, part)
