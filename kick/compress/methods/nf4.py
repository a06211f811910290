"""NF4: each weight to the nearest of 16 values that split a normal distribution evenly.

Tim Dettmers, Artidoro Pagnoni, Ari Holtzman, Luke Zettlemoyer: QLoRA: Efficient Finetuning of Quantized LLMs.
NeurIPS 2023, arXiv 2305.14314. Blocks of 64 weights in storage order are scaled by their largest absolute
value; with `double`, those scales, less their mean, are rounded to 8 bits in blocks of 256. Weights only,
simulated by dequantized weights.

Deviations: the scales are rounded to a symmetric linear 8-bit grid (the authors' code uses an 8-bit float).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kick.compress.calibrate.walk import walk
from kick.compress.context import Quantized, calibration_of
from kick.compress.method import method, option
from kick.compress.quantizing import store

_BLOCK = 64
_SCALES = 256
_TAIL = 0.9677083  # the outermost quantile: halfway between 1 - 1/32 and 1 - 1/30, as the paper's offset


def levels() -> Tensor:
    """The 16 values from -1 to 1, zero among them: quantiles of a normal, 8 above zero and 7 below."""
    above = torch.special.ndtri(torch.linspace(_TAIL, 0.5, 9, dtype=torch.float64)[:-1])
    below = -torch.special.ndtri(torch.linspace(_TAIL, 0.5, 8, dtype=torch.float64)[:-1])
    values = torch.cat([above, below, torch.zeros(1, dtype=torch.float64)]).sort().values
    return (values / values.max()).float()


@method(
    "nf4",
    title="NF4",
    paper="Dettmers et al., NeurIPS 2023, arXiv 2305.14314",
    kind="quantize",
    blockwise=True,
    place=50,
    bits=4,
)
@dataclass(frozen=True)
class Nf4:
    """Each weight to the nearest of 16 normal quantiles (weights only, simulated)."""

    double: bool = option("round the blocks' scales to 8 bits too", True)

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        scale_bits = 8 + 32 / _SCALES if self.double else 32
        stored = Quantized("nf4", 4, scale_bits / _BLOCK)
        for block in walk(model, calibration):
            for linear in block.linears:
                store(block, linear, nf4(linear.weight.float(), self.double), calibration, stored)


def nf4(weight: Tensor, double: bool = True) -> Tensor:
    """The rounded weight (out, in)."""
    size = weight.numel()
    flat = nn.functional.pad(weight.flatten(), (0, -size % _BLOCK)).view(-1, _BLOCK)
    scale = flat.abs().amax(dim=1)
    if double:
        scale = _round_scales(scale)
    values = levels().to(weight.device)
    middles = (values[1:] + values[:-1]) / 2
    codes = torch.bucketize(flat / scale.clamp(min=1e-30)[:, None], middles)
    return (values[codes] * scale[:, None]).flatten()[:size].view_as(weight)


def _round_scales(scale: Tensor) -> Tensor:
    mean = scale.mean()
    parts = nn.functional.pad(scale - mean, (0, -len(scale) % _SCALES)).view(-1, _SCALES)
    step = parts.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / 127
    return ((parts / step).round() * step).flatten()[: len(scale)] + mean
