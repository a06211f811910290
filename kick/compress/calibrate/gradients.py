"""Gradients of the language modelling loss for every matrix: one backward pass over the calibration set.

Each gradient is summed up and freed as soon as it is there, so that beside the model only the sums are held.
Where memory is short (`offload`), blocks take turns: one forward and backward pass for each, its sums on
disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kick.compress.context import Calibration, tokens
from kick.errors import CellFailed
from kick.model import Linear, blocks, linears
from kick.model.structure import device_of

Reduce = Literal["sum", "squares"]


class Gradients:
    """Sums over samples of each block's gradients, or of their squares."""

    def __init__(
        self, model: nn.Module, calibration: Calibration, reduce: Reduce, folder: Path | None = None
    ):
        self.held: dict[int, dict[str, Tensor]] = {}
        self.folder = folder
        self.modules = blocks(model)
        everything = range(len(self.modules))
        for chosen in [range(i, i + 1) for i in everything] if folder else [everything]:
            self._sum(model, calibration, reduce, chosen)

    def of(self, block: int, linear: Linear) -> Tensor:
        """(out, in): the sum for a linear of a block. Raises CellFailed at NaN or infinity."""
        sums = self._read(self.folder, block, linear) if self.folder else self.held[block]
        total = sums[_key(linear)]
        if not total.sum().isfinite():
            raise CellFailed(f"the gradient of {linear.name} in block {block} has NaN or infinity in it")
        return part_of(total, linear)

    @staticmethod
    def _read(folder: Path, block: int, linear: Linear) -> dict[str, Tensor]:
        return load_file(folder / f"{block}.safetensors", device=str(linear.weight.device))

    def _sum(self, model: nn.Module, calibration: Calibration, reduce: Reduce, chosen: range) -> None:
        """One pass over the samples for some blocks."""
        wanted = {
            (index, _key(linear)): getattr(linear.module, linear.parameter)
            for index in chosen
            for linear in linears(self.modules[index])
        }
        sums = {place: torch.zeros_like(weight, dtype=torch.float32) for place, weight in wanted.items()}
        totals = {id(parameter): sums[place] for place, parameter in wanted.items()}

        def see(parameter: nn.Parameter, gradient: Tensor) -> None:
            if reduce == "squares":
                totals[id(parameter)].addcmul_(gradient, gradient)
            else:
                totals[id(parameter)].add_(gradient)

        with collected(wanted.values(), see):
            backward(model, calibration)
        for index in chosen:
            own = {key: total for (block, key), total in sums.items() if block == index}
            if self.folder:
                save_file(own, self.folder / f"{index}.safetensors")
            else:
                self.held[index] = own


def _key(linear: Linear) -> str:
    """One name for each parameter: an expert's matrices are slices of one."""
    name = linear.name
    if linear.expert is not None:
        name = name.rsplit(".", 2)[0]
    return f"{name}.{linear.parameter}"


def part_of(total: Tensor, linear: Linear) -> Tensor:
    """The part (out, in) of a tensor shaped as a parameter that is of a matrix: a view."""
    if linear.expert is not None:
        return total[linear.expert]
    return total.t() if isinstance(linear.module, Conv1D) else total


@contextmanager
def collected(
    parameters: Iterable[nn.Parameter], see: Callable[[nn.Parameter, Tensor], None]
) -> Iterator[None]:
    """While open, these parameters get gradients: `see` is called with each, float32, which is then freed."""
    handles = []

    def take(parameter: nn.Parameter) -> None:
        if parameter.grad is None:
            raise RuntimeError("a gradient was announced and is not there")
        see(parameter, parameter.grad.float())
        parameter.grad = None

    parameters = list(parameters)
    for parameter in parameters:
        parameter.requires_grad_(True)
        handles.append(parameter.register_post_accumulate_grad_hook(take))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None


def backward(model: nn.Module, calibration: Calibration) -> int:
    """Run each sequence forward and its mean loss backward, for what hooks see; the number of tokens."""
    count = 0
    for ids in tokens(calibration, device_of(model)):
        with torch.enable_grad():
            model(ids, labels=ids, use_cache=False).loss.backward()
        calibration.passes.forward += 1
        calibration.passes.backward += 1
        count += ids.numel()
    return count


@contextmanager
def gradients(model: nn.Module, calibration: Calibration, reduce: Reduce) -> Iterator[Gradients]:
    """Gradients for as long as this is open: in memory, or, with `offload`, block by block on disk."""
    if calibration.offload is None:
        yield Gradients(model, calibration, reduce)
        return
    with tempfile.TemporaryDirectory(dir=calibration.offload) as folder:
        yield Gradients(model, calibration, reduce, Path(folder))
