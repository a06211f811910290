"""D-Pruner: weights that matter for a domain stay, and those that matter in general weigh on its gradients.

Nan Zhang, Yanchi Liu, Xujiang Zhao, Wei Cheng, Runxue Bao, Rui Zhang, Prasenjit Mitra, Haifeng Chen: Pruning
as a Domain-specific LLM Extractor. Findings of NAACL 2024, arXiv 2405.06275. A weight's general importance G
is SparseGPT's w^2 / d^2 on open text, taken as SparseGPT prunes the matrix and makes up for it. On domain
text the gradient g becomes g + 2 lambda lr^2 G g^2, and with c = g w the importance is |c - c^2 / 2|, summed
over sequences. The lowest share of each matrix goes; weights stay as they were.

Deviations: no fine-tuning: gradients are taken at the original weights; exactly the share goes (the published
rule takes all up to a percentile). `order: published` is the published code's |c + c^2 / 2000 + w^3| with a
penalty a thousandth as large. Open and domain text come from the matrix's one calibration: its first
`general` sequences are the open text; 0 takes all for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.calibrate.gradients import backward, collected, part_of
from kick.compress.calibrate.statistics import Hessian
from kick.compress.calibrate.walk import shared, walk
from kick.compress.context import Calibration, calibration_of
from kick.compress.method import method, option
from kick.compress.pruning import Comparison, check_pattern, prune, put
from kick.compress.solver import BLOCK, Factor, across, arithmetic, factor, silence, sweep
from kick.compress.sparsity import Sparsity, mask
from kick.errors import CellFailed, KickError
from kick.model import Linear, named_linears

FIRST = 0.5  # of a matrix goes while its general importance is taken, as published
PENALTY, SECOND = 1000, 2000  # what the published code divides by
Sums = dict[int, Tensor]  # by the id of a parameter, of its shape


@method(
    "d-pruner",
    title="D-Pruner",
    paper="Zhang et al., Findings of NAACL 2024, arXiv 2405.06275",
    kind="prune",
    needs=("calibration", "gradients"),
    feeds_forward=True,
    place=92,
)
@dataclass(frozen=True)
class DPruner:
    """Weights go by gradients on domain text, weighed by their importance on open text."""

    sparsity: Sparsity = option("the share pruned of each matrix, or n:m = n pruned of each m")
    general: int = option("how many sequences, the first, are open text; 0 takes all for both", 0, low=0)
    penalty: float = option("lambda: weight of the general importance", 0.1, low=0)
    rate: float = option("the learning rate in the penalty", 0.03, low=0)
    order: str = option("of the estimate", "second", choices=("first", "second", "published"))
    per: str = option("what is compared", "matrix", choices=("matrix", "columns"))

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the pattern does not fit the model."""
        check_pattern(model, self.sparsity)

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        if self.general >= len(calibration):
            raise KickError(
                f"d-pruner: {self.general} of {len(calibration)} sequences are open text, and none is left "
                "of the domain; choose a smaller `general`"
            )
        of_domain = list(calibration)[self.general :]
        found = [linear for _, _, linear in named_linears(model)]
        known = self._general(model, calibration, found)
        importances = self._importances(model, replace(calibration, sequences=of_domain), found, known)
        for block in walk(model, calibration):
            for linear in block.linears:
                saliency = part(importances, linear)
                if self.per == "matrix" or self.sparsity.m:
                    prune(block, linear, saliency, Comparison(self.sparsity, "matrix"))
                    continue
                before = calibration.kept(block.full(linear), linear.weight)
                if before is not None:
                    saliency = saliency.masked_fill(~before, -torch.inf)
                sparsity = calibration.scope.sparsity(block.full(linear), self.sparsity)
                put(block, linear, by_columns(saliency, sparsity), sparsity)

    def _general(self, model: nn.Module, calibration: Calibration, found: Sequence[Linear]) -> Sums:
        """The general importance of each matrix, of the model as it is."""
        known = zeros(found)
        open_text = calibration
        if self.general:  # statistics of all sequences are another thing
            open_text = replace(calibration, sequences=calibration[: self.general], memory=None)
        for block in walk(model, open_text, looks=True):
            for hessian, group in shared(block.measure(Hessian), block.linears):
                triangle = hessian.triangle
                silence(triangle)
                inverse = factor(triangle, 0.01, block.full(group[0]), calibration)
                for linear in group:
                    part(known, linear).copy_(general_importance(linear.weight, inverse))
        return known

    def _importances(
        self, model: nn.Module, calibration: Calibration, found: Sequence[Linear], known: Sums
    ) -> Sums:
        """Sums over sequences of each weight's importance. Raises CellFailed at NaN or infinity."""
        sums = zeros(found)

        def see(parameter: nn.Parameter, gradient: Tensor) -> None:
            weight, general = parameter.detach().float(), known[id(parameter)]
            gradient = regularised(gradient, general, self._scale, self.rate)
            sums[id(parameter)] += importance(gradient, weight, self.order)

        with collected(parameters(found), see):
            backward(model, calibration)
        for linear in found:
            if not part(sums, linear).sum().isfinite():
                raise CellFailed(f"the importance of {linear.name} has NaN or infinity in it")
        return sums

    @property
    def _scale(self) -> float:
        return self.penalty / PENALTY if self.order == "published" else self.penalty


def part(tensors: Sums, linear: Linear) -> Tensor:
    """The part (out, in) of a parameter's tensor that is of a matrix: a view."""
    return part_of(tensors[id(getattr(linear.module, linear.parameter))], linear)


def parameters(found: Sequence[Linear]) -> list[nn.Parameter]:
    """The parameters that matrices are in, once each."""
    held = [getattr(linear.module, linear.parameter) for linear in found]
    return list({id(one): one for one in held}.values())


def zeros(found: Sequence[Linear]) -> Sums:
    """A tensor of zeros for each parameter, float32."""
    return {id(one): torch.zeros_like(one, dtype=torch.float32) for one in parameters(found)}


def general_importance(weight: Tensor, inverse: Factor) -> Tensor:
    """(out, in): w^2 / d^2 as SparseGPT prunes half of each 128 columns and makes up in those to come."""
    columns = across([weight])
    found, kept = torch.empty_like(columns), torch.empty_like(columns)
    scale = inverse.upper.diagonal().square()[:, None]
    do = arithmetic(columns)
    factors, share = do.view(kept), Sparsity(FIRST)

    def opening(start: int, end: int) -> None:
        found[start:end] = columns[start:end].square() / scale[start:end]
        kept[start:end] = mask(found[start:end].contiguous(), share, "matrix", "authors").float()

    def rule(i: int, column: Any, new: Any) -> None:
        do.multiply(column, factors[i], out=new)

    sweep(columns, inverse, opening, rule)
    return found.t()


def regularised(gradient: Tensor, general: Tensor, penalty: float, rate: float) -> Tensor:
    """The gradient with a penalty on changes of weights that matter in general."""
    return gradient + 2 * penalty * rate**2 * general * gradient.square()


def importance(gradient: Tensor, weight: Tensor, order: str) -> Tensor:
    """How much the loss changes without each weight, to first or second order, or as the published code."""
    change = gradient * weight
    if order == "first":
        return change.abs()
    if order == "second":
        return (change - change.square() / 2).abs()
    return (change + change.square() / SECOND + weight**3).abs()


def by_columns(saliency: Tensor, sparsity: Sparsity) -> Tensor:
    """The mask of what to keep (out, in) if each 128 columns lose the share."""
    return torch.cat([mask(one.contiguous(), sparsity, "matrix") for one in saliency.split(BLOCK, 1)], dim=1)
