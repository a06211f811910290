"""Magnitude pruning: the weights with the smallest absolute values go.

Song Han, Jeff Pool, John Tran, William J. Dally: Learning both Weights and Connections for Efficient Neural
Networks. NeurIPS 2015, arXiv 1506.02626; as a one-shot baseline for language models in SparseGPT
(arXiv 2301.00774) and Wanda (arXiv 2306.11695). No retraining here.

Deviations from the code published with Wanda: exactly floor(share x size) weights go; `ties: authors` prunes
everything up to and with the next one, as that code does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kick.compress.calibrate.walk import walk
from kick.compress.method import method, option
from kick.compress.pruning import Comparison, check_pattern, prune, put
from kick.compress.sparsity import Sparsity
from kick.errors import KickError


@method(
    "magnitude",
    title="Magnitude pruning",
    paper="Han et al., NeurIPS 2015, arXiv 1506.02626",
    kind="prune",
    blockwise=True,
    place=20,
    look="red o -",
    chooses={
        "per: global": "sets one threshold for all matrices",
        "ties: authors": "prunes other numbers than asked for",
    },
)
@dataclass(frozen=True)
class Magnitude:
    """The weights with the smallest absolute values are pruned."""

    sparsity: Sparsity = option("the share pruned, or n:m = n pruned of each m")
    per: str = option("what is compared", "matrix", choices=("row", "matrix", "global"))
    ties: str = option("exact, or the published code's rule", "exact", choices=("exact", "authors"))

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the pattern does not fit the model, or the ties what is compared."""
        check_pattern(model, self.sparsity)
        if self.ties != "exact" and self.per != "matrix":
            raise KickError(
                f"magnitude: ties {self.ties!r} is a rule for whole matrices, got per {self.per!r}; "
                "choose per: matrix, or ties: exact"
            )

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        together = self.per == "global" and not self.sparsity.m
        threshold = _Global(model, self.sparsity, calibration) if together else None
        how = Comparison(self.sparsity, "row" if self.per == "row" else "matrix", self.ties)
        for block in walk(model, calibration):
            for linear in block.linears:
                size = linear.weight.float().abs()
                if threshold:
                    put(block, linear, threshold.mask(size))
                else:
                    prune(block, linear, size, how)


class _Global:
    """One threshold for all matrices that a step covers, from counts of float bit patterns: no second copy.

    The bits of a non-negative float, read as an integer, are in the order of the floats.
    """

    def __init__(self, model: nn.Module, sparsity: Sparsity, calibration: Sequence[Tensor]):
        def counted(size: int, part: Callable[[Tensor], Tensor]) -> Tensor:
            blocks = walk(model, calibration, looks=True)
            weights = (_bits(linear.weight) for block in blocks for linear in block.linears)
            none = torch.zeros((), dtype=torch.long)
            return sum((torch.bincount(part(bits), minlength=size) for bits in weights), none)

        high = counted(1 << 15, lambda bits: bits >> 16)
        self.k = sparsity.count(int(high.sum()))
        first, before = _place(high, self.k)
        low = counted(1 << 16, lambda bits: bits[bits >> 16 == first] & 0xFFFF)
        second, before_low = _place(low, self.k - before)
        self.threshold = (first << 16) + second
        self.ties = self.k - before - before_low  # how many of those at the threshold still go

    def mask(self, size: Tensor) -> Tensor:
        """The weights to keep of the next matrix in order, by its absolute values (out, in)."""
        if self.k == 0:
            return torch.ones_like(size, dtype=torch.bool)
        bits = _bits(size).view(size.shape)
        equal = bits == self.threshold
        going = equal & (equal.flatten().cumsum(0).view(size.shape) <= self.ties)
        self.ties -= int(going.sum())
        return ~(going | (bits < self.threshold))


def _bits(weight: Tensor) -> Tensor:
    return weight.float().abs().contiguous().view(torch.int32).flatten()


def _place(counts: Tensor, k: int) -> tuple[int, int]:
    """The bin that the k-th falls into, and how many lie in the bins before it."""
    total = counts.cumsum(0)
    place = int(torch.searchsorted(total, torch.tensor(max(k, 1), device=total.device)))
    return place, int(total[place] - counts[place])
