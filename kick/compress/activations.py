"""Quantized activations: what W8A8 methods share. Each token's vector is rounded as it enters a matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kick.compress.context import Quantized
from kick.model import Linear

TOP = 127


def round_rows(values: Tensor) -> Tensor:
    """Each row (..., n) rounded to 8 bits, -127 .. 127 times its largest absolute value / 127.

    Computed in float32: in float16 the least step would be zero, and codes would be rounded twice.
    """
    wide = values.float()
    step = (wide.abs().amax(dim=-1, keepdim=True) / TOP).clamp(min=1e-30)
    return (wide / step).round_().clamp_(-TOP, TOP).mul_(step).to(values.dtype)


def int8(inputs: int) -> Quantized:
    """The storage of a weight of so many inputs: 8-bit rows with a 16-bit scale, 8-bit activations."""
    return Quantized("int8", 8, 16 / inputs, activation_bits=8)


class RoundedInput:
    """A hook that rounds a module's input, token by token; features of a token beyond `outlier` are left as
    they are.

    It depends on nothing but the token itself, so that answers do not depend on how they are batched.
    """

    def __init__(self, outlier: float = float("inf")):
        self.outlier = outlier

    def __call__(self, _module: nn.Module, args: tuple) -> tuple:
        x = args[0]
        rounded = self.round(x.detach())
        if torch.is_grad_enabled():  # rounding has no slope: gradients pass it as if it were not there
            rounded = x + (rounded - x.detach())
        return (rounded, *args[1:])

    def round(self, x: Tensor) -> Tensor:
        """Tokens (..., n) as they go into the module."""
        if self.outlier == float("inf"):
            return round_rows(x)
        large = x.abs() > self.outlier
        return torch.where(large, x, round_rows(x.masked_fill(large, 0.0)))


def round_inputs(linear: Linear, outlier: float = float("inf")) -> None:
    """Make the module round its inputs from now on."""
    linear.module.register_forward_pre_hook(RoundedInput(outlier))
