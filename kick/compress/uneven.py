"""Widths that differ from block to block: they run, and no config of transformers describes them.

A method says for each block which groups of heads and which MLP channels it keeps, `kept`, and
`widths.narrow` makes the block so. The config stays as it was, so that such a model is measured by `kick run`
and never saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from kick.compress.coupled import check_channels, coupled, structures
from kick.compress.twin import Form
from kick.compress.widths import KeptWidths, fitted, largest, narrow
from kick.errors import KickError
from kick.model import blocks


class UnevenWidths:
    """What methods say whose blocks keep different widths; they have an option `share`."""

    share: float

    def check(self, model: nn.Module) -> None:
        """Raises KickError if a block has no units that kick knows, or has experts; widths may differ."""
        check_channels(model, structures(model))

    def check_saved(self, _model: nn.Module) -> None:
        """Raises KickError: no config describes what would be left."""
        refuse_saved("blocks of different widths")

    def forms(self, model: nn.Module) -> list[Form]:
        """An example of what the model becomes, biases aside."""
        return [partial(_narrowed, shares=self.shares(model))]

    def shares(self, model: nn.Module) -> list[float]:
        """A share for each block, as an example: from nothing to twice what is asked."""
        count = len(blocks(model))
        return [min(2 * self.share * (index + 0.5) / count, 0.95) for index in range(count)]


def refuse_saved(what: str) -> None:
    """Raise KickError: a result with such blocks is not a checkpoint."""
    raise KickError(
        f"{what} would be left, and no config of transformers describes them, so that the result cannot be "
        "saved; `kick run` measures it; choose flap, llm-pruner or transact to save one"
    )


def kept(heads: Tensor, channels: Tensor, size: tuple[int, int]) -> KeptWidths:
    """The units with the largest scores, (groups,) and (channels,): so many of each, `size`."""
    return KeptWidths(largest(heads, size[0]), largest(channels, size[1]))


def _narrowed(model: nn.Module, shares: Sequence[float]) -> None:
    for block, share in zip(blocks(model), shares, strict=True):
        structure = coupled(block, model)
        device = structure.o.weight.device
        groups, channels = (torch.arange(size, device=device) for size in fitted(structure.size, share))
        narrow(block, structure, KeptWidths(groups, channels))
