"""OWL: Wanda with a share of its own for each block: the more outliers in a block, the less of it is pruned.

Lu Yin et al.: Outlier Weighed Layerwise Sparsity (OWL): A Missing Secret Sauce for Pruning LLMs to High
Sparsity. ICML 2024, arXiv 2310.05175.

A block's outliers are the weights whose saliency is more than `outlier` times the block's mean. Their shares,
stretched to an interval of 2 x `spread`, are what blocks keep beyond the mean.

Deviations: blocks count by their number of weights, so that the share asked for holds of the whole where
blocks differ in size. Outliers are counted on dense activations, as published, whatever the matrix
propagates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kick.compress.calibrate.walk import walk
from kick.compress.context import Calibration, calibration_of
from kick.compress.method import method, option
from kick.compress.methods.wanda import saliencies
from kick.compress.pruning import Comparison, prune
from kick.compress.sparsity import Sparsity
from kick.errors import CellFailed, KickError


@method(
    "owl",
    title="OWL",
    paper="Yin et al., ICML 2024, arXiv 2310.05175",
    kind="prune",
    needs=("calibration",),
    feeds_forward=True,
    blockwise=True,
    place=40,
    chooses="it chooses the shares itself",
)
@dataclass(frozen=True)
class Owl:
    """Wanda, with less pruned in blocks that have more outliers; the least salient of each row are pruned."""

    sparsity: Sparsity = option("the share pruned of all blocks together")
    outlier: float = option("how many times its block's mean a saliency is to be an outlier", 5.0, low=1)
    spread: float = option("how far a block's share may be from the mean, about", 0.08, low=0, high=0.5)

    def check(self, model: nn.Module) -> None:
        """Raises KickError for a pattern: n of each m is the same in every block."""
        if self.sparsity.m:
            raise KickError(
                f"owl gives each block a share of its own; got the pattern {self.sparsity}: "
                "give a share, or choose wanda"
            )

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        shares = self._shares(model, calibration)
        for block, share in zip(walk(model, calibration), shares, strict=True):
            for linear, saliency in saliencies(block):
                prune(block, linear, saliency, Comparison(Sparsity(share)))

    def _shares(self, model: nn.Module, calibration: Calibration) -> list[float]:
        """The share pruned of each block. Raises CellFailed if that is not a valid share."""
        outliers, sizes, covered = [], [], []
        for block in walk(model, replace(calibration, propagate="dense"), looks=True):
            found = [saliency.flatten() for _, saliency in saliencies(block)]
            covered.append(bool(found))
            if not found:  # a scope leaves this block as it is
                continue
            values = torch.cat(found)
            sizes.append(values.numel())
            outliers.append(float((values > self.outlier * values.mean()).sum()) / values.numel())
        own = iter(spread(outliers, sizes, self.sparsity.share, self.spread))
        shares = [next(own) if here else self.sparsity.share for here in covered]
        if not all(0 <= share < 1 for share in shares):
            raise CellFailed(
                f"owl would prune {min(shares):.3f} to {max(shares):.3f} of a block; "
                f"with sparsity {self.sparsity} give a smaller spread than {self.spread:g}"
            )
        return shares


def spread(outliers: Sequence[float], sizes: Sequence[int], share: float, width: float) -> list[float]:
    """The share pruned of each block, by its share of outliers; `share` of all weights together.

    Args:
        outliers: the share of outliers in each block.
        sizes: weights of each block.
        width: half of the interval that the shares are stretched to.
    """
    low, high = min(outliers), max(outliers)
    if low == high:
        return [share] * len(outliers)
    kept = [2 * width * (own - low) / (high - low) for own in outliers]
    mean = sum(one * size for one, size in zip(kept, sizes, strict=True)) / sum(sizes)
    return [share - (one - mean) for one in kept]
