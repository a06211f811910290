"""Pruner-Zero: the saliency that a search by genetic programming found.

Peijie Dong, Lujun Li, Zhenheng Tang, Xiang Liu, Xinglin Pan, Qiang Wang, Xiaowen Chu: Pruner-Zero: Evolving
Symbolic Pruning Metric from Scratch for Large Language Models. ICML 2024, arXiv 2406.02924. Saliency |W W|
times the gradient's norm over samples, scaled to 0 .. 1 over the matrix; compared in a row.

Deviations: sums of gradients in float32 (the authors' are cut to float16).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from kick.compress.calibrate.gradients import gradients
from kick.compress.calibrate.walk import walk
from kick.compress.context import calibration_of
from kick.compress.method import method, option
from kick.compress.pruning import Comparison, check_pattern, prune
from kick.compress.sparsity import Sparsity

_TINY = 1e-30  # a matrix that no gradient reaches (an expert without tokens) scales to zeros, not NaN


@method(
    "pruner-zero",
    title="Pruner-Zero",
    paper="Dong et al., ICML 2024, arXiv 2406.02924",
    kind="prune",
    needs=("calibration", "gradients"),
    place=70,
)
@dataclass(frozen=True)
class PrunerZero:
    """Squared weight times scaled gradient; the least salient of each row are pruned."""

    sparsity: Sparsity = option("the share pruned of each row, or n:m = n pruned of each m")

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the pattern does not fit the model."""
        check_pattern(model, self.sparsity)

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        with gradients(model, calibration, "squares") as sums:
            for block in walk(model, calibration):
                for linear in block.linears:
                    gradient = sums.of(block.index, linear).sqrt()
                    low, high = gradient.min(), gradient.max()
                    saliency = (gradient - low) / (high - low + _TINY) * linear.weight.float().square()
                    prune(block, linear, saliency, Comparison(self.sparsity))
