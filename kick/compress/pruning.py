"""What pruning methods share: putting a mask on a linear, and checking a pattern against a model's shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kick.compress.calibrate.walk import Block
from kick.compress.sparsity import Group, Sparsity, Ties, mask
from kick.errors import CellFailed, KickError
from kick.model import Linear, blocks, linears

_PART = 2**18  # weights that are set at a time


@dataclass(frozen=True)
class Comparison:
    """How many go, and what they are compared with."""

    sparsity: Sparsity
    group: Group = "row"
    ties: Ties = "exact"


def prune(block: Block, linear: Linear, saliency: Tensor, how: Comparison) -> None:
    """Set the least salient weights to zero by saliency (out, in), and keep the mask for later steps.

    What an earlier step pruned goes first, so that the number asked for is the total. A share that the step's
    scope gives this linear replaces the method's.

    Raises:
        CellFailed: NaN or infinity in the saliency.
    """
    name, calibration = block.full(linear), block.feed.calibration
    if not saliency.sum().isfinite():
        raise CellFailed(f"the saliency of {name} has NaN or infinity in it")
    before = calibration.kept(name, linear.weight)
    if before is not None:
        saliency = saliency.masked_fill(~before, -torch.inf)
    sparsity = calibration.scope.sparsity(name, how.sparsity)
    put(block, linear, mask(saliency, sparsity, how.group, how.ties), sparsity)


def clear(weight: Tensor, kept: Tensor) -> None:
    """Set finite weights (out, in) to +0 where `kept` is False, in place."""
    rows = max(1, _PART // weight.shape[1])
    for own, part in zip(weight.split(rows), kept.split(rows), strict=True):  # parts that stay in the cache
        own.mul_(part.to(weight.dtype)).add_(0.0)  # -0 + 0 is +0; a masked fill takes twenty times as long


def put(block: Block, linear: Linear, kept: Tensor, sparsity: Sparsity | None = None) -> None:
    """Set a linear's weights to zero where `kept` (out, in) is False, and keep the mask for later steps."""
    clear(linear.weight, kept)
    block.feed.calibration.keep(block.full(linear), kept, sparsity)


def stacked(before: Sequence[Tensor | None], weights: Sequence[Tensor]) -> Tensor | None:
    """The masks (out, in) of earlier steps as (in, all out); None if no step pruned any of these."""
    if all(mask is None for mask in before):
        return None
    whole = [
        torch.ones_like(weight, dtype=torch.bool) if mask is None else mask
        for mask, weight in zip(before, weights, strict=True)
    ]
    return torch.cat([mask.t() for mask in whole], dim=1)


def check_pattern(model: nn.Module, sparsity: Sparsity) -> None:
    """Raises KickError if m of an n:m pattern does not divide the inputs of every linear."""
    if not sparsity.m:
        return
    for block in blocks(model):
        for linear in linears(block):
            if linear.weight.shape[1] % sparsity.m:
                raise KickError(
                    f"the pattern {sparsity} needs inputs that are a multiple of {sparsity.m}, but "
                    f"{linear.name} has {linear.weight.shape[1]}; choose another m, or a share"
                )
