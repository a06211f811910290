"""HQQ: half-quadratic quantization, a real-valued zero point found without calibration data.

Hicham Badri, Appu Shaji: Half-Quadratic Quantization of Large Machine Learning Models. Mobius Labs,
November 2023. The scale is that of min .. max; the zero point minimises the p-norm of the rounding error, p
< 1, by turns of a shrinkage and a mean. Weights only, simulated by dequantized weights.

Deviations: groups lie along the inputs of a row; a group's turns stop when the error of the whole matrix no
longer falls, as in the authors' code, and the best zero point found is kept, where that code keeps the last
one; it is never rounded, which that code does at 4 bits by default. Zero is not on the grid: a mask of an
earlier step is kept beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kick.compress.calibrate.walk import walk
from kick.compress.context import Quantized, calibration_of
from kick.compress.grid import Grid
from kick.compress.method import method, option
from kick.compress.quantizing import check_groups, store


@method(
    "hqq",
    title="HQQ",
    paper="Badri and Shaji, Mobius Labs 2023",
    kind="quantize",
    blockwise=True,
    place=40,
)
@dataclass(frozen=True)
class Hqq:
    """A real-valued zero point that minimises a p-norm of the rounding error (weights only, simulated)."""

    bits: int = option("bits of a weight", low=2, high=8)
    group_size: int = option("inputs that share a scale; -1: the whole row", 64, low=-1)
    p: float = option("the norm of the error", 0.7, low=0.1, high=1)
    beta: float = option("weight of the quadratic term at the start", 10.0, low=1e-3)
    growth: float = option("what it is multiplied by in each turn", 1.01, low=1)
    iterations: int = option("turns at most", 20, low=0)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the group size does not divide the inputs."""
        check_groups(model, self.group_size)

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        for block in walk(model, calibration):
            for linear in block.linears:
                size = linear.weight.shape[1] if self.group_size == -1 else self.group_size
                stored = Quantized("hqq", self.bits, 32 / size, zero=False)
                store(block, linear, self.round(linear.weight.float()), calibration, stored)

    def round(self, weight: Tensor) -> Tensor:
        """The rounded weight (out, in)."""
        grid = Grid(self.bits, self.group_size)
        parts = grid.groups(weight)
        low, high = parts.amin(-1, keepdim=True), parts.amax(-1, keepdim=True)
        rate = (grid.top / (high - low)).clamp(max=2e4)  # codes for a unit of weight
        zero = -low * rate
        beta, least = self.beta, float("inf")
        best = zero
        for _ in range(self.iterations):
            codes = torch.round(parts * rate + zero).clamp_(0, grid.top)
            error = parts - (codes - zero) / rate
            total = float(error.abs().mean())
            if total >= least:
                break
            least, best = total, zero
            sparse = error.sign() * (error.abs() - error.abs().pow(self.p - 1) / beta).clamp_(min=0)
            zero = (codes - (parts - sparse) * rate).mean(-1, keepdim=True)
            beta *= self.growth
        codes = torch.round(parts * rate + best).clamp_(0, grid.top)
        return ((codes - best) / rate).flatten(1)
