"""Runs a tree of token sequences: shared prefixes once, everything else packed side by side in one row.

A subtree that fits the token budget goes into one forward as a whole. A larger one has its own tokens
computed first; their keys and values are kept until all below it is done. So memory depends on the budget
and the depth of sharing, not on how many or how long the sequences are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kick.engine.network import Network, out_of_memory
from kick.engine.packed.attend import EMPTY, KV, Call, PackLayout
from kick.engine.packed.tree import Node

BLOCK = 192  # tokens of a branching piece that are computed with one mask rather than part by part
LEAST = 32  # a budget that is not halved any more

Spans = tuple[KV, ...]


@dataclass(frozen=True)
class Done:
    """A sequence that has been read: hidden states (count, H) of its last positions.

    With `keep`: `spans` are the keys and values of the shared pieces before its own, `tail` its own.
    """

    reading: int
    hidden: Tensor
    spans: Spans = ()
    tail: KV = EMPTY


class Pack:
    """The pieces of one forward while they are collected. `items` is what was asked, to ask it again."""

    def __init__(self, device: torch.device):
        self.device = device
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.own: list[Call] = []
        self.shared: list[Call] = []
        self.placed: list[tuple[Node, int, Spans]] = []  # node, its first row, what it looks back at
        self.items: list[tuple[Node, Spans]] = []

    def add(self, node: Node, spans: Spans, whole: bool) -> None:
        """Put a node in, with all below it if `whole`; `spans` is what it may look back at."""
        self.items.append((node, spans))
        start = len(self.ids)
        if not whole:
            self._segment(node, spans)
        elif node.children and node.size <= BLOCK:
            self._block(node, spans)
        else:
            self._subtree(node, spans)
        for span in spans:
            self._look(start, len(self.ids), span)

    def _place(self, node: Node, spans: Spans) -> tuple[int, int]:
        start = len(self.ids)
        self.placed.append((node, start, spans))
        self.ids += node.ids
        self.positions += range(node.start, node.start + len(node.ids))
        return start, len(self.ids)

    def _segment(self, node: Node, spans: Spans) -> tuple[int, int]:
        start, end = self._place(node, spans)
        self.own.append(Call(start, end, (start, end), "causal"))
        return start, end

    def _subtree(self, node: Node, spans: Spans) -> None:
        """Node by node: each piece looks at itself, and at the pieces above it as a whole."""
        stack: list[tuple[Node, tuple[tuple[int, int], ...]]] = [(node, ())]
        while stack:
            node, above = stack.pop()
            start = len(self.ids)
            if node.children and node.size <= BLOCK:
                self._block(node, spans)
            else:
                here = self._segment(node, spans)
                stack.extend((child, (*above, here)) for child in reversed(node.children))
            for source in above:
                self._look(start, len(self.ids), source)

    def _block(self, node: Node, spans: Spans) -> None:
        """A small subtree under one mask."""
        first = len(self.ids)
        mask = torch.full((node.size, node.size), -float("inf"))
        rows: dict[int, tuple[int, int]] = {}
        for piece in node.below():
            a, b = (row - first for row in self._place(piece, spans))
            rows[id(piece)] = (a, b)
            mask[a:b, a:b] = torch.full((b - a, b - a), -float("inf")).triu(1)
            above = piece
            while above is not node and above.parent is not None:
                above = above.parent
                mask[a:b, slice(*rows[id(above)])] = 0.0
        end = len(self.ids)
        self.own.append(Call(first, end, (first, end), mask.to(self.device)))

    def _look(self, start: int, end: int, source: KV | tuple[int, int]) -> None:
        """Rows start to end look at all of a source; neighbours that look at the same become one call."""
        for i, call in enumerate(self.shared):
            if call.source is source and call.end == start:
                self.shared[i] = replace(call, end=end)
                return
        self.shared.append(Call(start, end, source))

    def forward(self, network: Network, record: bool) -> tuple[Tensor, KV]:
        """Hidden states (S, H) of all its tokens, and their keys and values if `record`."""
        layout = PackLayout(self.own + self.shared, record)
        ids = torch.tensor([self.ids], device=self.device)
        positions = torch.tensor([self.positions], device=self.device)
        hidden = network.hidden(ids, position_ids=positions, layout=layout)
        return hidden[0], layout.recorded()


class Runner:
    """Reads every sequence of a tree; iterate over it to get each forward's finished ones.

    Args:
        network: with its attention set to ours.
        root: the tree.
        counts: for each sequence, how many of its last positions are needed;
        budget: tokens of one forward; halved whenever one runs out of memory.
        keep: give each sequence's keys and values too.
        extend: called on a subtree that is about to be run whole, to lengthen its leaves.
    """

    def __init__(
        self,
        network: Network,
        root: Node,
        counts: list[int],
        budget: int,
        keep: bool = False,
        extend: Callable[[Node], None] | None = None,
    ):
        self.network = network
        self.counts = counts
        for node in root.below():
            for reading in node.readings:
                node.want(counts[reading])
        self.budget = budget
        self.keep = keep
        self.extend = extend
        self.stack: list[tuple[Node, Spans]] = [(child, ()) for child in reversed(root.children)]

    def __iter__(self) -> Iterator[list[Done]]:
        pack = Pack(self.network.device)
        while self.stack or pack.items:
            if not self.stack:
                yield self._run(pack, None)
                pack = Pack(self.network.device)
                continue
            node, spans = self.stack.pop()
            if self.extend is not None and node.size <= self.budget:
                self.extend(node)
            if len(node.ids) > self.budget:
                node.split(self.budget)
            whole = node.size <= self.budget
            if pack.ids and len(pack.ids) + (node.size if whole else len(node.ids)) > self.budget:
                self.stack.append((node, spans))
                yield self._run(pack, None)
                pack = Pack(self.network.device)
                continue
            pack.add(node, spans, whole)
            if not whole:  # what is below needs its keys and values
                yield self._run(pack, node)
                pack = Pack(self.network.device)

    def _run(self, pack: Pack, open_node: Node | None) -> list[Done]:
        """The sequences that a forward finishes; none, and all of it to do again, if memory runs out.

        What it computed lives no longer than what is made of it: it is in no frame that waits for the next.
        """
        try:
            hidden, kv = pack.forward(self.network, self.keep or open_node is not None)
        except RuntimeError as error:
            if not out_of_memory(error) or self.budget <= LEAST:
                raise
            self.budget //= 2
            self.stack.extend(reversed(pack.items))
            return []
        found: list[Done] = []
        known: dict[int, KV] = {}
        for node, start, spans in pack.placed:
            end = start + len(node.ids)
            node.hidden = hidden[end - node.wanted : end]
            node.hidden = node.hidden.clone() if node.children else node.hidden
            if self.keep and node.children:
                known[id(node)] = kv.part(start, end).copy(node.sequences())
            if node.readings:
                found += self._finish(node, start, spans, (kv, known))
        if open_node is not None:
            node, start, spans = pack.placed[-1]
            own = known.get(id(node)) or kv.part(start, start + len(node.ids)).copy(node.sequences())
            self.stack.extend((child, (*spans, own)) for child in reversed(node.children))
        return found

    def _finish(self, node: Node, start: int, spans: Spans, computed: tuple[KV, dict[int, KV]]) -> list[Done]:
        hidden = {reading: gather(node, self.counts[reading]) for reading in node.readings}
        if not self.keep:
            return [Done(reading, rows) for reading, rows in hidden.items()]
        kv, known = computed
        above, parent = [], node.parent
        while parent is not None and id(parent) in known:
            above.append(known[id(parent)])
            parent = parent.parent
        spans = (*spans, *reversed(above))
        tail = kv.part(start, start + len(node.ids))
        return [Done(reading, rows, spans, tail) for reading, rows in hidden.items()]


def gather(node: Node, count: int) -> Tensor:
    """Hidden states (count, H) of the last positions of the sequence that ends in `node`."""
    parts = []
    above: Node | None = node
    while count > 0:
        if above is None or above.hidden is None:
            raise ValueError(f"{count} of the positions to be read have not been computed")
        parts.append(above.hidden[max(0, len(above.hidden) - count) :])
        count -= len(above.ids)
        above = above.parent
    return torch.cat(parts[::-1]) if len(parts) > 1 else parts[0]
