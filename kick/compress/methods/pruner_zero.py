"""Pruner-Zero: the saliency that a search by genetic programming found.

Peijie Dong, Lujun Li, Zhenheng Tang, Xiang Liu, Xinglin Pan, Qiang Wang, Xiaowen Chu: Pruner-Zero: Evolving
Symbolic Pruning Metric from Scratch for Large Language Models. ICML 2024, arXiv 2406.02924. Saliency |W W|
times the gradient's norm over samples, scaled to 0 .. 1 over the matrix; compared in a row. Another formula
of the same space can take its place, such as one that `kick study search` found (`kick.compress.formula`).

Deviations: sums of gradients in float32 (the authors' are cut to float16).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kick.compress.calibrate.gradients import gradients
from kick.compress.calibrate.statistics import InputNorm
from kick.compress.calibrate.walk import walk
from kick.compress.context import calibration_of
from kick.compress.formula import parse
from kick.compress.method import method, option
from kick.compress.pruning import Comparison, check_pattern, prune
from kick.compress.sparsity import Sparsity
from kick.errors import KickError, WrongOption

PUBLISHED = "mul(abs(mul(W, W)), mms(G))"


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
    formula: str = option("the saliency, of weight W, gradient G and input X", PUBLISHED)

    @classmethod
    def complete(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with the formula as it is printed: blanks make no other key.

        Raises WrongOption for what is not a formula.
        """
        if not isinstance(options.get("formula"), str):
            return dict(options)
        try:
            return {**options, "formula": str(parse(options["formula"]))}
        except KickError as error:
            raise WrongOption(f"pruner-zero: option {error}", "formula") from None

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the pattern does not fit the model."""
        check_pattern(model, self.sparsity)

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration, formula = calibration_of(calibration), parse(self.formula)
        reads = formula.operands
        with gradients(model, calibration, "squares") if "G" in reads else nullcontext() as sums:
            for block in walk(model, calibration):
                norms = block.measure(InputNorm) if "X" in reads else {}
                for linear in block.linears:
                    values = {"W": linear.weight.float().abs()}
                    if sums is not None:
                        values["G"] = sums.of(block.index, linear).sqrt()
                    if norms:
                        values["X"] = norms[linear.name].square[None]
                    saliency = formula(values).expand_as(linear.weight)
                    prune(block, linear, saliency, Comparison(self.sparsity))
