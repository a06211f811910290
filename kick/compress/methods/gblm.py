"""GBLM-Pruner: Wanda's saliency plus the weight times the norm of its gradient over samples.

Rocktim Jyoti Das, Mingjie Sun, Liqun Ma, Zhiqiang Shen: Beyond Size: How Gradients Shape Pruning Decisions
in Large Language Models. 2023, arXiv 2311.04902. Saliency |W| ||X||_2 + alpha |W| ||G||_2, compared in a
row; the gradients are those of the dense model, one for each calibration sequence.

Deviations: sums of gradients in float32 (the authors' are cut to float16); no dropout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from kick.compress.calibrate.gradients import gradients
from kick.compress.calibrate.statistics import InputNorm
from kick.compress.calibrate.walk import walk
from kick.compress.context import calibration_of
from kick.compress.method import method, option
from kick.compress.pruning import Comparison, check_pattern, prune
from kick.compress.sparsity import Sparsity


@method(
    "gblm",
    title="GBLM-Pruner",
    paper="Das et al., 2023, arXiv 2311.04902",
    kind="prune",
    needs=("calibration", "gradients"),
    feeds_forward=True,
    place=80,
)
@dataclass(frozen=True)
class Gblm:
    """Wanda's saliency plus the weight times the norm of its gradient."""

    sparsity: Sparsity = option("the share pruned of each row, or n:m = n pruned of each m")
    alpha: float = option("weight of the gradient term", 100.0, low=0)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the pattern does not fit the model."""
        check_pattern(model, self.sparsity)

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        with gradients(model, calibration, "squares") as sums:
            for block in walk(model, calibration):
                norms = block.measure(InputNorm)
                for linear in block.linears:
                    gradient = sums.of(block.index, linear).sqrt()
                    factor = gradient.mul_(self.alpha).add_(norms[linear.name].norm)
                    prune(block, linear, factor.mul_(linear.weight.float().abs()), Comparison(self.sparsity))
