"""Token sequences as a tree of shared prefixes: what many requests begin with is stored once.

Sequences are compared as token ids, never as texts: a header and a question tokenised apart differ at
their seam from the two tokenised together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from torch import Tensor

Worth = Callable[[int, int], bool]  # (shared tokens, sequences that share them): whether to share


@dataclass(eq=False)
class Node:
    """Consecutive tokens that all sequences below it share.

    start: position of its first token; readings: sequences that end here; needed: how many of its last
    positions somebody reads; hidden: the hidden states (needed, H) of those, once computed.
    """

    ids: tuple[int, ...]
    start: int
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)
    readings: list[int] = field(default_factory=list)
    wanted: int = 0
    size: int = 0  # tokens in it and below
    hidden: Tensor | None = None

    def add(self, ids: tuple[int, ...]) -> Node:
        """A new child with these tokens."""
        child = Node(ids, self.start + len(self.ids), self)
        self.children.append(child)
        return child

    def below(self) -> Iterator[Node]:
        """This node and all below, parents first, depth first."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children))

    def sequences(self) -> int:
        """How many sequences end here or below."""
        return sum(len(node.readings) for node in self.below())

    def want(self, count: int) -> None:
        """Somebody reads the last `count` positions of the sequence that ends here."""
        node: Node | None = self
        while node is not None and count > 0:
            node.wanted = max(node.wanted, min(count, len(node.ids)))
            count -= len(node.ids)
            node = node.parent

    def measure(self) -> None:
        """Set `size` here and below."""
        for node in reversed(list(self.below())):
            node.size = len(node.ids) + sum(child.size for child in node.children)

    def split(self, length: int) -> None:
        """Keep the first `length` tokens, and move the others with all that follows into a child."""
        rest = Node(self.ids[length:], self.start + length, self, self.children, self.readings)
        for child in rest.children:
            child.parent = rest
        rest.wanted = min(self.wanted, len(rest.ids))
        rest.size = self.size - length
        self.wanted = max(0, self.wanted - len(rest.ids))
        self.ids, self.children, self.readings = self.ids[:length], [rest], []


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def grow(sequences: Sequence[tuple[int, ...]], worth: Worth) -> Node:
    """The tree of the sequences, each of a token at least; `readings` are their indices, the root is empty.

    A prefix is shared where `worth(tokens, sequences)` says so, else repeated in each sequence.
    """
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    shared = [0, *(common(sequences[a], sequences[b]) for a, b in pairwise(order))]
    root = Node((), 0)
    tasks = [(0, len(order), root)]
    while tasks:
        low, high, node = tasks.pop()
        first, depth = sequences[order[low]], node.start + len(node.ids)
        if high - low == 1:
            _end(node, first[depth:], order[low])
            continue
        length = min(shared[low + 1 : high])
        if length > depth and worth(length - depth, high - low):
            node = node.add(first[depth:length])
        cuts = [low, *(i for i in range(low + 1, high) if shared[i] == length), high]
        tasks.extend((a, b, node) for a, b in reversed(list(pairwise(cuts))))
    root.measure()
    return root


def _end(node: Node, rest: tuple[int, ...], reading: int) -> None:
    """The sequence ends in `node`, or in a new child with the rest of it."""
    (node.add(rest) if rest else node).readings.append(reading)
