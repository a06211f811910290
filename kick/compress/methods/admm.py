"""ADMM pruning: the remaining weights and the choice of them are improved in turn.

Vladimír Boža: Fast and Effective Weight Update for Pruned Large Language Models. TMLR 2024, arXiv 2401.02938.

As in the authors' code, inputs are scaled to a unit Hessian diagonal, the mask is chosen anew in the first
iterations, and for a share it is at the full sparsity from the first one (the paper describes a gradual cubic
schedule: `schedule: cubic`).

Deviations: linears with the same input share one inverse; the inverse comes from a Cholesky factor; exactly
floor(share x size) weights of a matrix go; n:m is full from the first iteration too, where the code raises it
bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kick.compress.calibrate.statistics import Hessian
from kick.compress.calibrate.walk import shared, walk
from kick.compress.context import calibration_of
from kick.compress.method import method, option
from kick.compress.pruning import check_pattern, put, stacked
from kick.compress.solver import across
from kick.compress.sparsity import Sparsity, mask
from kick.errors import CellFailed, KickError

_TINY = 1e-8  # keeps a dead input's scale from being zero


@method(
    "admm",
    title="ADMM pruning",
    paper="Boža, TMLR 2024, arXiv 2401.02938",
    kind="prune",
    needs=("calibration",),
    feeds_forward=True,
    blockwise=True,
    place=60,
    chooses="it chooses weights while it updates them",
)
@dataclass(frozen=True)
class Admm:
    """The choice of weights and the values of the rest are improved in turn."""

    sparsity: Sparsity = option("the share pruned of each matrix, or n:m = n pruned of each m")
    iterations: int = option("updates of the weights", 20, low=1)
    choices: int = option("iterations that choose the mask anew", 15, low=1)
    damping: float = option("added to the unit diagonal of the Hessian", 0.1, low=0)
    rho: float = option("weight of the constraint", 1.0, low=1e-6)
    schedule: str = option("how the share grows", "constant", choices=("constant", "cubic"))

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the pattern does not fit the model or the schedule."""
        check_pattern(model, self.sparsity)
        if self.sparsity.m and self.schedule != "constant":
            raise KickError(
                f"admm: schedule {self.schedule!r} grows a share, got {self.sparsity}; "
                "choose 'constant', or a share"
            )

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        for block in walk(model, calibration):
            for hessian, group in shared(block.measure(Hessian), block.linears):
                weights = [linear.weight.float() for linear in group]
                before = [calibration.kept(block.full(linear), linear.weight) for linear in group]
                allowed = stacked(before, weights)
                solved = self.solve(weights, hessian.matrix, block.full(group[0]), allowed)
                for linear, (weight, kept) in zip(group, solved, strict=True):
                    linear.put(weight)
                    put(block, linear, kept, self.sparsity)

    def solve(
        self,
        weights: Sequence[Tensor],
        hessian: Tensor,
        name: str = "the layer",
        allowed: Tensor | None = None,
    ) -> list[tuple[Tensor, Tensor]]:
        """The pruned weight and the mask of kept weights, (out, in) both, for weights with one input.

        allowed: what earlier steps kept, (in, all out): the rest goes first.

        Raises:
            CellFailed: the damped Hessian is not positive definite.
        """
        scale = hessian.diagonal().sqrt() + _TINY
        gram = hessian / scale / scale[:, None]
        gram.diagonal().add_(self.damping * gram.diagonal().mean())
        dense = across(weights) * scale[:, None]
        target = gram @ dense
        gram.diagonal().add_(self.rho)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if failed:
            raise CellFailed(f"the Hessian of {name} is not positive definite; use a larger damping")
        inverse = torch.cholesky_inverse(factor)
        sizes = [weight.shape[0] for weight in weights]
        current, slack = dense, torch.zeros_like(dense)
        for iteration in range(self.iterations):
            shifted = current + slack
            if iteration < self.choices:
                size = shifted.abs()
                if allowed is not None:
                    size.masked_fill_(~allowed, -1.0)
                kept = self._choose(size, sizes, iteration)
                kept = kept if allowed is None else kept & allowed
            pruned = shifted * kept
            slack = shifted - pruned
            current = inverse @ (target + self.rho * (pruned - slack))
        pruned = ((current + slack) * kept / scale[:, None]).t()
        return list(zip(pruned.split(sizes), kept.t().split(sizes), strict=True))

    def _choose(self, saliency: Tensor, sizes: list[int], iteration: int) -> Tensor:
        """The weights to keep, (in, all out), each matrix compared by itself."""
        level = self.sparsity
        last = min(self.choices, self.iterations)
        if self.schedule == "cubic" and not level.m and iteration + 1 < last:
            level = Sparsity(level.share * (1 - (1 - (iteration + 1) / last) ** 3))
        parts = [mask(part.t().contiguous(), level, "matrix") for part in saliency.split(sizes, 1)]
        return torch.cat(parts).t()
