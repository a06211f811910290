"""GPTQ: weights are rounded column by column, each column's error spread over the columns still to come.

Elias Frantar, Saleh Ashkboos, Torsten Hoefler, Dan Alistarh: GPTQ: Accurate Post-Training Quantization for
Generative Pre-trained Transformers. ICLR 2023, arXiv 2210.17323. Weights only, simulated by dequantized
weights.

Deviations: linears with the same input are swept together; one Cholesky factor replaces three steps, with a
triangular inverse only where groups' scales are found on the way; an input that is always zero gets zero
weights, as in the authors' code. With `act_order` and groups, the groups are those of the stored order and
their scales are found before the sweep, so that the result can be stored without a permutation. Weights
pruned by an earlier step stay zero, and their columns' errors are spread with that in mind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.calibrate.statistics import Hessian
from kick.compress.calibrate.walk import Block, shared, walk
from kick.compress.context import Calibration, calibration_of
from kick.compress.grid import Grid, Scale
from kick.compress.method import method, option
from kick.compress.pruning import stacked
from kick.compress.quantizing import check_groups, integer, store
from kick.compress.solver import Factor, across, apart, arithmetic, factor, silence, sweep
from kick.model import Linear


@method(
    "gptq",
    title="GPTQ",
    paper="Frantar et al., ICLR 2023, arXiv 2210.17323",
    kind="quantize",
    needs=("calibration",),
    feeds_forward=True,
    blockwise=True,
    place=20,
    look="pink D -",
)
@dataclass(frozen=True)
class Gptq:
    """Rounding column by column, each error spread over the columns still to come (simulated)."""

    bits: int = option("bits of a weight", low=2, high=8)
    group_size: int = option("inputs that share a scale; -1: the whole row", -1, low=-1)
    symmetric: bool = option("a grid around zero instead of one from min to max", False)
    act_order: bool = option("columns in the order of falling Hessian diagonal", False)
    mse: bool = option("search for the span with the least error instead of min to max", False)
    damping: float = option("share of the mean Hessian diagonal added to it", 0.01, low=0, high=1)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the group size does not divide the inputs."""
        check_groups(model, self.group_size)

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        grid = Grid(self.bits, self.group_size, self.symmetric)
        for block in walk(model, calibration):
            for hessian, group in shared(block.measure(Hessian), block.linears):
                known = hessian.matrix if self.act_order else hessian.triangle
                self._solve(block, group, known, grid, calibration)

    def _solve(
        self, block: Block, group: list[Linear], hessian: Tensor, grid: Grid, calibration: Calibration
    ) -> None:
        weights = [linear.weight for linear in group]
        before = [calibration.kept(block.full(linear), linear.weight) for linear in group]
        dead = silence(hessian)
        order = hessian.diagonal().argsort(descending=True, stable=True) if self.act_order else None
        if order is not None:
            hessian = hessian[order][:, order]
        how = ColumnOrder(grid, order, stacked(before, weights), dead, self.mse)
        inputs = len(hessian)
        found = factor(hessian, self.damping, block.full(group[0]), calibration, how.groupwise(inputs))
        for linear, (weight, scale) in zip(group, gptq(weights, found, how), strict=True):
            store(block, linear, weight, calibration, integer(grid, scale, inputs))


@dataclass(frozen=True, eq=False)
class ColumnOrder:
    """How a weight is swept.

    `order` (in,): the columns as they are swept, None as they stand; `kept` (in, all out): weights that may
    differ from zero, None all; `dead` (in,): inputs that were always zero; `mse`: search for each group's
    span.
    """

    grid: Grid
    order: Tensor | None = None
    kept: Tensor | None = None
    dead: Tensor | None = None
    mse: bool = False

    def groupwise(self, inputs: int) -> bool:
        """Whether a group's scale is found in its columns as errors before it have changed them."""
        return self.order is None and self.grid.group_size not in (-1, inputs)

    def swept(self, columns: Tensor) -> Tensor:
        """Columns (in, all out) in the order of the sweep."""
        return columns if self.order is None else columns[self.order]

    def restore(self, columns: Tensor) -> Tensor:
        """Swept columns in stored order."""
        return columns if self.order is None else columns[self.order.argsort()]


def gptq(weights: Sequence[Tensor], factor: Factor, how: ColumnOrder) -> list[tuple[Tensor, Scale]]:
    """The rounded weights (out, in) and their scales, of weights with one input.

    Args:
        weights: (out, in) each.
        factor: of the Hessian, its rows and columns in the order of the sweep; U where scales are found
            groupwise.
    """
    columns = across(weights)
    if how.groupwise(len(columns)) and not factor.inverse:
        raise ValueError("scales found groupwise need the inverse's factor: they look at columns to come")
    scales = _Scales(columns, how)
    if how.dead is not None and how.dead.any():
        columns.masked_fill_(how.dead[:, None], 0.0)
    columns = how.swept(columns)
    do = arithmetic(columns)
    mask = None if how.kept is None else do.view(how.swept(how.kept).float())
    unit = scales.step()
    if unit is not None:  # all in units of its step: two operations less a column
        columns.div_(unit)

    def rule(i: int, column: Any, new: Any) -> None:
        scale, low, high = scales.of(i)
        if unit is None:
            column = do.divide(column, scale, out=new)
        do.round(column, out=new)
        do.maximum(new, low, out=new)
        do.minimum(new, high, out=new)
        if unit is None:
            do.multiply(new, scale, out=new)
        if mask is not None:
            do.multiply(new, mask[i], out=new)

    made = sweep(columns, factor, lambda start, end: scales.opening(columns, start, end), rule)
    if unit is not None:
        made.mul_(unit)
    made.add_(0.0)  # -0 + 0 is +0
    sizes = [weight.shape[0] for weight in weights]
    return list(zip(apart(how.restore(made), sizes), scales.result().split(sizes), strict=True))


class _Scales:
    """The scale of each column: found before the sweep, or group by group as blocks are opened."""

    def __init__(self, columns: Tensor, how: ColumnOrder):
        self.row = Grid(how.grid.bits, -1, how.grid.symmetric)  # of a group by itself
        self.mse = how.mse
        inputs = len(columns)
        self.size = inputs if how.grid.group_size == -1 else how.grid.group_size
        self.view = arithmetic(columns).view
        self.found: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # by group
        self.seen: dict[int, tuple] = {}  # the same as the sweep's rules take it
        order = range(inputs) if how.order is None else how.order.tolist()
        self.group_of = [column // self.size for column in order]
        if not how.groupwise(inputs):
            for group, part in enumerate(columns.split(self.size)):
                self._fit(group, part)

    def opening(self, columns: Tensor, start: int, end: int) -> None:
        """Find the groups that start in this block, from the columns (in, out) as they stand now."""
        for first in range(-(-start // self.size) * self.size, end, self.size):
            if first // self.size not in self.found:
                self._fit(first // self.size, columns[first : first + self.size])

    def of(self, column: int) -> tuple:
        """A column's scale, its least and its largest code less the zero, (out,) each, in sweep order."""
        return self.seen[self.group_of[column]]

    def step(self) -> Tensor | None:
        """The scale of all columns, (out,), where a row is one group."""
        return self.found[0][0] if self.size == len(self.group_of) else None

    def result(self) -> Scale:
        """All scales and zeros, (out, groups)."""
        groups = [self.found[number] for number in sorted(self.found)]
        scale, low, _ = (torch.stack(part, dim=1) for part in zip(*groups, strict=True))
        return Scale(scale, low.neg())

    def _fit(self, group: int, columns: Tensor) -> None:
        at = self.row.fit(columns.t(), shrink=self.mse)
        zero = at.zero[:, 0]
        self.found[group] = (at.scale[:, 0].contiguous(), -zero, self.row.top - zero)
        self.seen[group] = tuple(map(self.view, self.found[group]))
