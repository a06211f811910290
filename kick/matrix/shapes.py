"""A model's shape, for costs: read off the headers of its files."""

from __future__ import annotations

from dataclasses import dataclass

from kick.paths import EXPERTS


@dataclass(frozen=True)
class Shape:
    """A model's size, read off its files' headers. `block` is the parameters of its largest block, `widest`
    the longest input of a weight in a block.

    stored: bytes of all tensors in the file. largest: parameters of the largest matrix of a block. blocks:
    how many. cached: values per token and block that keys and values take. quantized: by someone else. edges:
    inputs and outputs of all matrices of the blocks, added up. experts: parameters of a block's experts, if
    their matrices are stored one by one. squares: of inputs and of outputs of all matrices, added up.
    """

    parameters: int
    block: int
    widest: int
    hidden: int
    vocabulary: int
    stored: int = 0
    largest: int = 0
    blocks: int = 1
    cached: int = 0
    quantized: bool = False
    edges: int = 0
    experts: int = 0
    squares: int = 0

    @property
    def at_once(self) -> int:
        """Parameters of a block that are in memory together: of large experts one matrix, two as stored."""
        apart = 4 * self.experts > EXPERTS
        return self.block - self.experts + 2 * self.largest if apart else self.block

    @property
    def per_value(self) -> float:
        """Bytes of a value in the file."""
        return self.stored / self.parameters if self.stored else 4.0

    @property
    def head(self) -> int:
        """Values of the head."""
        return self.vocabulary * self.hidden
