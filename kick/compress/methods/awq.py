"""AWQ: weights are scaled up where their inputs are large before they are rounded, and down again after.

Ji Lin, Jiaming Tang, Haotian Tang, Shang Yang, Wei-Ming Chen, Wei-Chen Wang, Guangxuan Xiao, Xingyu Dang,
Chuang Gan, Song Han: AWQ: Activation-aware Weight Quantization for On-Device LLM Compression and
Acceleration. MLSys 2024, arXiv 2306.00978. Weights only, simulated by dequantized weights.

The scale is the mean absolute input to a power searched in 20 steps; then the span of each group is
searched in 10 steps of 5 %, except where outputs are multiplied with each other in attention.

Deviations: the error that the searches minimise is that of the linears' own outputs, from X^T X, where the
authors' code runs the surrounding module. The scale stays with the weight, W' = Q(W s) / s, where the
authors fold 1/s into what comes before: the same numbers, and no architecture is left out; its 16 bits an
input are counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kick.compress.calibrate.statistics import Hessian
from kick.compress.calibrate.walk import shared, walk
from kick.compress.context import Quantized, calibration_of
from kick.compress.grid import Grid
from kick.compress.method import method, option
from kick.compress.quantizing import check_groups, integer, store
from kick.model import Linear

_ATTENDED = re.compile(r"q_proj|k_proj|query|key|c_attn|qkv")
_STEPS = 20


class ScaledInput(Hessian):
    """X^T X and the sum of |X| in one pass."""

    kind = "scaled_input"

    def empty(self, inputs: int, device: torch.device | str) -> dict[str, Tensor]:
        return super().empty(inputs, device) | {"total": torch.zeros(inputs, device=device)}

    def _sum(self, x: Tensor) -> None:
        super()._sum(x)
        self.tensors["total"] += x.abs().sum(dim=0)

    def neutral(self) -> None:
        super().neutral()
        self.tensors["total"].fill_(self.tokens)

    @property
    def mean(self) -> Tensor:
        """(in,): the mean absolute input."""
        return self.tensors["total"] / self.tokens


@method(
    "awq",
    title="AWQ",
    paper="Lin et al., MLSys 2024, arXiv 2306.00978",
    kind="quantize",
    needs=("calibration",),
    feeds_forward=True,
    blockwise=True,
    version=2,  # spans of a fused qkv are left alone as those of q and k
    place=30,
    look="sky P -",
)
@dataclass(frozen=True)
class Awq:
    """Weights scaled by their inputs' size before rounding (weights only, simulated)."""

    bits: int = option("bits of a weight", low=2, high=8)
    group_size: int = option("inputs that share a scale; -1: the whole row", -1, low=-1)
    symmetric: bool = option("a grid around zero instead of one from min to max", False)
    clip: bool = option("search for each group's span after scaling", True)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the group size does not divide the inputs."""
        check_groups(model, self.group_size)

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        grid = Grid(self.bits, self.group_size, self.symmetric)
        for block in walk(model, calibration):
            for seen, group in shared(block.measure(ScaledInput), block.linears):
                weight = torch.cat([linear.weight.float() for linear in group])
                scale = best_scale(weight, seen.matrix, seen.mean, grid)
                for linear in group:
                    rounded = self._round(linear, seen.matrix, scale, grid)
                    plain = integer(grid, grid.fit(linear.weight), linear.weight.shape[1])
                    overhead = plain.shared + 16 / linear.weight.shape[0]
                    store(block, linear, rounded, calibration, Quantized("awq", self.bits, overhead))

    def _round(self, linear: Linear, hessian: Tensor, scale: Tensor, grid: Grid) -> Tensor:
        weight = linear.weight.float() * scale
        if self.clip and not _ATTENDED.search(linear.name):
            weight = clipped(weight, hessian / scale / scale[:, None], grid)
        return grid.round(weight, grid.fit(weight)) / scale


def best_scale(weight: Tensor, hessian: Tensor, mean: Tensor, grid: Grid) -> Tensor:
    """(in,): the scale with the least error of the outputs, for stacked weights of one input."""
    least, best = float("inf"), torch.ones_like(mean)
    for step in range(_STEPS):
        scale = mean.pow(step / _STEPS).clamp(min=1e-4)
        scale = scale / (scale.max() * scale.min()).sqrt()
        change = grid.round(weight * scale, grid.fit(weight * scale)).div_(scale).sub_(weight)
        error = float(((change @ hessian) * change).sum())
        if error < least:
            least, best = error, scale
    return best


def clipped(weight: Tensor, hessian: Tensor, grid: Grid) -> Tensor:
    """The weight (out, in), each group cut to the span with the least error of its share of the output."""
    parts = grid.groups(weight)
    count, size = parts.shape[1:]
    starts = torch.arange(count, device=weight.device) * size
    places = starts[:, None] + torch.arange(size, device=weight.device)
    own = hessian[places[:, :, None], places[:, None, :]]  # (groups, size, size)
    largest = parts.abs().amax(dim=-1, keepdim=True)
    least = torch.full_like(largest, float("inf"))
    best = largest
    for step in range(_STEPS // 2):
        limit = largest * (1 - step / _STEPS)
        cut = torch.maximum(torch.minimum(parts, limit), -limit).flatten(1)
        change = grid.groups(grid.round(cut, grid.fit(cut))) - parts
        error = (torch.einsum("ogi,gij->ogj", change, own) * change).sum(-1, keepdim=True)
        best = torch.where(error < least, limit, best)
        least = torch.minimum(error, least)
    return torch.maximum(torch.minimum(parts, best), -best).flatten(1)
