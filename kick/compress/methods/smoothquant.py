"""SmoothQuant W8A8: what makes activations hard to round is moved into the weights before both are rounded.

Guangxuan Xiao, Ji Lin, Mickael Seznec, Hao Wu, Julien Demouth, Song Han: SmoothQuant: Accurate and Efficient
Post-Training Quantization for Large Language Models. ICML 2023, arXiv 2211.10438. Tokens are rounded to 8
bits each, in every forward pass, as in the paper's O1.

A norm's output is divided, and the weights that read it multiplied, by max|X|^alpha / max|W|^(1-alpha),
folded into the norm. Deviations: weights are rounded by rows, where the paper has one scale a matrix, which
is coarser; which linears read a norm is seen in a forward pass, not looked up by
architecture; a fold that changes the block's output beyond rounding (a norm that feeds something else too)
is taken back and noted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kick.compress.activations import int8, round_inputs, round_rows
from kick.compress.calibrate.statistics import AbsMax
from kick.compress.calibrate.walk import Block, walk
from kick.compress.context import calibration_of
from kick.compress.method import method, option
from kick.compress.quantizing import store
from kick.model import Linear, watch
from kick.model.structure import check_called


@method(
    "smoothquant",
    title="SmoothQuant",
    paper="Xiao et al., ICML 2023, arXiv 2211.10438",
    kind="quantize",
    activations=True,
    version=2,  # folds are judged by the dtype's rounding
    needs=("calibration",),
    place=70,
    bits=8,
    serves="all but mixtures of experts and Mamba",
)
@dataclass(frozen=True)
class SmoothQuant:
    """8-bit weights and activations after moving outliers into the weights (activations really rounded)."""

    alpha: float = option("how much of the difficulty moves into the weights", 0.5, low=0, high=1)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if a matrix is used without a call."""
        check_called(model, "smoothquant")

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        for block in walk(model, calibration, runs=True):
            largest = block.measure(AbsMax)
            for norm, readers in norm_readers(block):
                scale = self.scale(largest[readers[0].name].value, [linear.weight for linear in readers])
                if not _fold(block, norm, readers, scale):
                    calibration.note("not smoothed", linear=block.full(readers[0]))
                elif calibration.dense:
                    calibration.dense.scale(block.index, [linear.name for linear in readers], scale)
            for linear in block.linears:
                rounded = round_rows(linear.weight.float())
                store(block, linear, rounded, calibration, int8(linear.weight.shape[1]))
                round_inputs(linear)

    def scale(self, largest: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """(in,): what a norm's output is divided by, from its largest values and its readers' weights."""
        reading = torch.stack([weight.float().abs().amax(dim=0) for weight in weights]).amax(dim=0)
        scale = largest.clamp(min=1e-5).pow(self.alpha) / reading.clamp(min=1e-5).pow(1 - self.alpha)
        return scale.clamp(min=1e-5)


def norm_readers(block: Block) -> list[tuple[nn.Module, list[Linear]]]:
    """The norms of a block with the linears that read their output, seen on the first sample."""
    made: dict[tuple[int, int], nn.Module] = {}
    readers: dict[int, tuple[nn.Module, list[Linear]]] = {}
    held: list[Tensor] = []  # outputs stay alive, so that no address is used twice

    def leave(module: nn.Module, _args: tuple, output: Tensor) -> None:
        held.append(output)
        made[output.data_ptr(), output.numel()] = module

    def see(linear: Linear, x: Tensor) -> None:
        norm = made.get((x.data_ptr(), x.numel()))
        if norm is not None:
            readers.setdefault(id(norm), (norm, []))[1].append(linear)

    norms = [module for module in block.module.modules() if "Norm" in type(module).__name__]
    handles = [norm.register_forward_hook(leave) for norm in norms]
    try:
        with watch(block.module, block.linears, see):
            block.run(0)
    finally:
        for handle in handles:
            handle.remove()
    return list(readers.values())


def _fold(block: Block, norm: nn.Module, readers: list[Linear], scale: Tensor) -> bool:
    """Divide the norm and multiply its readers; False, and all as it was, where outputs differ or the norm is
    of another width, of each head by itself."""
    own = [norm.get_parameter(name) for name, _ in norm.named_parameters() if name in ("weight", "bias")]
    if any(parameter.shape != scale.shape for parameter in own):
        return False
    before = block.run(0)
    kept = [parameter.data.clone() for parameter in own] + [linear.weight.clone() for linear in readers]
    for parameter in own:
        parameter.data.div_(scale)
    for linear in readers:
        linear.weight.mul_(scale)
    after = block.run(0)
    rounding = 4 * torch.finfo(before.dtype).eps  # more than a hundredth in bfloat16
    least = max(1e-3, rounding) * float(before.abs().max())
    if torch.allclose(before, after, rtol=max(1e-2, rounding), atol=least):
        return True
    changed = [parameter.data for parameter in own] + [linear.weight for linear in readers]
    for tensor, value in zip(changed, kept, strict=True):
        tensor.copy_(value)
    return False
