"""What weight-only quantizers share: options, checks, and putting rounded weights into a linear."""

from __future__ import annotations

from torch import Tensor, nn

from kick.compress.calibrate.walk import Block
from kick.compress.context import Calibration, Quantized
from kick.compress.grid import Grid, Scale, divides
from kick.compress.pruning import clear
from kick.errors import KickError
from kick.model import Linear, blocks, linears


def check_groups(model: nn.Module, group_size: int) -> None:
    """Raises KickError if a group size does not divide the inputs of every linear."""
    if group_size == -1:
        return
    if group_size < 1:
        raise KickError(f"group_size {group_size} is out of range; give a number of inputs, or -1 for a row")
    for block in blocks(model):
        for linear in linears(block):
            inputs = linear.weight.shape[1]
            if inputs % group_size:
                raise KickError(f"{linear.name}: {divides(inputs, group_size)}")


def store(block: Block, linear: Linear, weight: Tensor, calibration: Calibration, stored: Quantized) -> None:
    """Put a quantized weight (out, in) in place; weights that an earlier step pruned stay zero."""
    linear.put(weight)
    kept = calibration.kept(block.full(linear), linear.weight)
    if kept is not None:
        clear(linear.weight, kept)
    calibration.formats[block.full(linear)] = stored


def integer(grid: Grid, scale: Scale, inputs: int) -> Quantized:
    """The storage of a weight of so many inputs as codes: 16 bits for each scale, a code for each zero."""
    overhead = 16 + (0 if grid.symmetric else grid.bits)
    size = inputs if grid.group_size == -1 else grid.group_size
    return Quantized("int", grid.bits, overhead / size, grid, scale)
