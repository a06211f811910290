"""The dense weights of a model on disk, block by block, for methods that compare with them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kick.model import blocks, linears

SIDES = (".side_down", ".side_up")  # how the names of a side branch's buffers end


class DenseWeights:
    """A folder with one safetensors file for each block; the model is never held twice in memory."""

    def __init__(self, folder: Path):
        self.folder = folder

    def keep(self, model: nn.Module) -> None:
        """Write every matrix of every block."""
        for index, block in enumerate(blocks(model)):
            weights = {linear.name: linear.weight.contiguous().clone() for linear in linears(block)}
            save_file(weights, self.folder / f"{index}.safetensors")

    def scale(self, block: int, names: Collection[str], factor: Tensor) -> None:
        """Multiply matrices of a block by (in,): what they read is divided by it from now on."""
        weights = self.of(block)
        for name in names:
            weights[name] = weights[name] * factor.to(weights[name].device, weights[name].dtype)
        save_file(weights, self.folder / f"{block}.safetensors")

    def of(self, block: int) -> dict[str, Tensor]:
        """A block's dense matrices (out, in) by linear's name."""
        return load_file(self.folder / f"{block}.safetensors")


class SideBranch:
    """Adds B A x to a module's output; A (rank, in) and B (out, rank) are the module's buffers."""

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        down = nn.functional.linear(args[0], module.get_buffer("side_down"))
        return output + nn.functional.linear(down, module.get_buffer("side_up"))


def add_branch(module: nn.Module, down: Tensor, up: Tensor) -> None:
    """Give a module a side branch: A (rank, in) `down`, B (out, rank) `up`."""
    dtype = next(module.parameters()).dtype
    module.register_buffer("side_down", down.to(dtype).contiguous())
    module.register_buffer("side_up", up.to(dtype).contiguous())
    module.register_forward_hook(SideBranch())


def merge_branch(module: nn.Module, weight: Tensor) -> Tensor | None:
    """A module's weight (out, in) with its side branch added in, or None if it has none."""
    if not hasattr(module, "side_down"):
        return None
    return torch.addmm(weight, module.get_buffer("side_up"), module.get_buffer("side_down"))
