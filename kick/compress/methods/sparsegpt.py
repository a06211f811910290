"""SparseGPT: weights go column by column, each column's error spread over the columns still to come.

Elias Frantar, Dan Alistarh: SparseGPT: Massive Language Models Can be Accurately Pruned in One-Shot. ICML
2023, arXiv 2301.00774.

Deviations: in each block of 128 columns of a matrix exactly floor(share x size) weights go; `ties: authors`
prunes everything up to and with the next smallest score, as the authors' code does. Linears with the same
input are swept together with thresholds of their own; one Cholesky factor and one triangular inverse
replace three steps. Where m of n:m does not divide 128, blocks are the next smaller multiple of m.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.calibrate.statistics import Hessian
from kick.compress.calibrate.walk import Block, shared, walk
from kick.compress.context import Calibration, calibration_of
from kick.compress.method import method, option
from kick.compress.pruning import check_pattern, stacked
from kick.compress.solver import BLOCK, Factor, across, apart, arithmetic, factor, silence, sweep
from kick.compress.sparsity import Sparsity, Ties, mask
from kick.model import Linear


@method(
    "sparsegpt",
    title="SparseGPT",
    paper="Frantar and Alistarh, ICML 2023, arXiv 2301.00774",
    kind="prune",
    needs=("calibration",),
    feeds_forward=True,
    blockwise=True,
    place=50,
    chooses="it chooses weights while it updates them",
    look="green ^ -",
)
@dataclass(frozen=True)
class SparseGpt:
    """Pruning column by column, each error spread over the columns still to come."""

    sparsity: Sparsity = option("the share pruned of each 128 columns, or n:m = n pruned of each m")
    damping: float = option("share of the mean Hessian diagonal added to it", 0.01, low=0, high=1)
    ties: str = option("exact, or the published code's rule", "exact", choices=("exact", "authors"))

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the pattern does not fit the model."""
        check_pattern(model, self.sparsity)

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        for block in walk(model, calibration):
            for hessian, group in shared(block.measure(Hessian), block.linears):
                self._solve(block, group, hessian.triangle, calibration)

    def _solve(self, block: Block, group: list[Linear], hessian: Tensor, calibration: Calibration) -> None:
        dead = silence(hessian)
        inverse = factor(hessian, self.damping, block.full(group[0]), calibration)
        weights = [linear.weight for linear in group]
        if dead.any():
            weights = [weight.masked_fill(dead, 0.0) for weight in weights]
        before = [calibration.kept(block.full(linear), linear.weight) for linear in group]
        pruned = sparsegpt(weights, inverse, self.sparsity, self.ties, before)
        for linear, (weight, kept) in zip(group, pruned, strict=True):
            linear.put(weight)  # zero where it is not kept
            calibration.keep(block.full(linear), kept, self.sparsity)


def sparsegpt(
    weights: Sequence[Tensor],
    inverse: Factor,
    sparsity: Sparsity,
    ties: Ties = "exact",
    before: Sequence[Tensor | None] = (),
) -> list[tuple[Tensor, Tensor]]:
    """The pruned weight and the mask of kept weights, (out, in) both, for weights with one input.

    before: what an earlier step kept of each, (out, in), None all: the rest goes first, whatever errors were
    spread to it.
    """
    columns = across(weights)
    kept = torch.empty_like(columns, dtype=torch.bool)
    # a block's mask as 1 and 0: a product is faster than a fill
    factors = torch.empty_like(columns[: max(BLOCK, sparsity.m)])
    do = arithmetic(columns)
    factor_of = do.view(factors)
    first = 0
    sizes = [weight.shape[0] for weight in weights]
    scale = inverse.upper.diagonal().square()[:, None]
    allowed = stacked(before, weights)

    def choose(start: int, end: int) -> None:
        scores = columns[start:end].square().div_(scale[start:end])
        if allowed is not None:
            scores.masked_fill_(~allowed[start:end], -torch.inf)
        if sparsity.m:
            kept[start:end] = mask(scores.t().contiguous(), sparsity).t()
        else:
            for own, part in zip(kept[start:end].split(sizes, 1), scores.split(sizes, 1), strict=True):
                own.copy_(mask(part.contiguous(), sparsity, "matrix", ties))
        if allowed is not None:
            kept[start:end] &= allowed[start:end]
        factors[start - first : end - first] = kept[start:end]

    def opening(start: int, end: int) -> None:
        nonlocal first
        first = start
        if not sparsity.m:
            choose(start, end)

    def rule(i: int, column: Any, new: Any) -> None:
        if sparsity.m and i % sparsity.m == 0:
            choose(i, i + sparsity.m)
        do.multiply(column, factor_of[i - first], out=new)

    made = sweep(columns, inverse, opening, rule, step=sparsity.m or 1)
    made.add_(0.0)  # -0 + 0 is +0
    return list(zip(apart(made, sizes), kept.t().split(sizes), strict=True))
