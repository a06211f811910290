"""Wanda: a weight's saliency is its absolute value times the norm of its input.

Mingjie Sun, Zhuang Liu, Anna Bair, J. Zico Kolter: A Simple and Effective Pruning Approach for Large Language
Models. ICLR 2024, arXiv 2306.11695.

Deviations: none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from kick.compress.calibrate.statistics import InputNorm
from kick.compress.calibrate.walk import Block, walk
from kick.compress.method import method, option
from kick.compress.pruning import Comparison, check_pattern, prune
from kick.compress.sparsity import Sparsity
from kick.model import Linear


@method(
    "wanda",
    title="Wanda",
    paper="Sun et al., ICLR 2024, arXiv 2306.11695",
    kind="prune",
    needs=("calibration",),
    feeds_forward=True,
    blockwise=True,
    place=30,
    look="blue s -",
)
@dataclass(frozen=True)
class Wanda:
    """Absolute weight times input norm; the least salient of each row are pruned."""

    sparsity: Sparsity = option("the share pruned of each row, or n:m = n pruned of each m")

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the pattern does not fit the model."""
        check_pattern(model, self.sparsity)

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        for block in walk(model, calibration):
            for linear, saliency in saliencies(block):
                prune(block, linear, saliency, Comparison(self.sparsity))


def saliencies(block: Block, kind: type[InputNorm] = InputNorm) -> Iterator[tuple[Linear, Tensor]]:
    """Each linear of a block with its weights' saliency, (out, in), one at a time; kind: of the norms."""
    norms = block.measure(kind)
    for linear in block.linears:
        yield linear, linear.weight.float().abs().mul_(norms[linear.name].norm)
