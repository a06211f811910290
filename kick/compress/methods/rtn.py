"""Round to nearest: each weight to the nearest point of its group's grid.

The baseline of every paper on quantization; here on the grid that GPTQ's authors use (Frantar et al., ICLR
2023, arXiv 2210.17323), so that both differ in the rounding alone. Weights only, simulated by dequantized
weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from kick.compress.calibrate.walk import walk
from kick.compress.context import calibration_of
from kick.compress.grid import Grid
from kick.compress.method import method, option
from kick.compress.quantizing import check_groups, integer, store


@method(
    "rtn",
    title="Round to nearest",
    paper="baseline in Frantar et al., ICLR 2023, arXiv 2210.17323",
    kind="quantize",
    blockwise=True,
    place=10,
    look="orange v -",
)
@dataclass(frozen=True)
class RoundToNearest:
    """Each weight to the nearest point of its group's grid (weights only, simulated)."""

    bits: int = option("bits of a weight", low=2, high=8)
    group_size: int = option("inputs that share a scale; -1: the whole row", -1, low=-1)
    symmetric: bool = option("a grid around zero instead of one from min to max", False)
    mse: bool = option("search for the span with the least error instead of min to max", False)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the group size does not divide the inputs."""
        check_groups(model, self.group_size)

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        grid = Grid(self.bits, self.group_size, self.symmetric)
        for block in walk(model, calibration):
            for linear in block.linears:
                scale = grid.fit(linear.weight, shrink=self.mse)
                stored = integer(grid, scale, linear.weight.shape[1])
                store(block, linear, grid.round(linear.weight, scale), calibration, stored)
