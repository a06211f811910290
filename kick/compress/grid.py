"""The grid that weights are rounded to: integer codes 0 .. 2^bits - 1, a scale and an integer zero point.

One scale and zero for each group of `group_size` inputs of a row (-1: the whole row). The asymmetric grid
spans min .. max with zero included; the symmetric one spans +-max(|min|, max) around the code 2^(bits-1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """Bits of a code, inputs of a group (-1: a row), symmetric or not."""

    bits: int
    group_size: int = -1
    symmetric: bool = False

    @property
    def top(self) -> int:
        """The largest code."""
        return 2**self.bits - 1

    def groups(self, weight: Tensor) -> Tensor:
        """(out, in) as (out, groups, inputs), a view. Raises ValueError if the size does not divide."""
        size = weight.shape[1] if self.group_size == -1 else self.group_size
        if weight.shape[1] % size:
            raise ValueError(divides(weight.shape[1], size))
        return weight.unflatten(1, (-1, size))

    def fit(self, weight: Tensor, shrink: bool = False) -> Scale:
        """Scale and zero of every group of a weight (out, in).

        Args:
            shrink: try spans from 100 % down to 21 % of the full one and keep the best in the 2.4-norm.
        """
        parts = self.groups(weight.float())
        low = parts.amin(dim=-1).clamp_(max=0)
        high = parts.amax(dim=-1).clamp_(min=0)
        if self.symmetric:
            high = torch.maximum(-low, high)
            low = -high
        empty = high == low
        low, high = low.masked_fill(empty, -1.0), high.masked_fill(empty, 1.0)
        full = self._span(low, high)
        return self._shrunk(parts, low, high, full) if shrink else full

    def _span(self, low: Tensor, high: Tensor) -> Scale:
        scale = (high - low) / self.top
        middle = torch.full_like(scale, 2 ** (self.bits - 1))
        return Scale(scale, middle if self.symmetric else torch.round(-low / scale))

    def _shrunk(self, parts: Tensor, low: Tensor, high: Tensor, best: Scale) -> Scale:
        least = self._error(parts, best)
        for step in range(1, 80):
            share = 1 - step / 100
            trial = self._span(share * low, share * high)
            error = self._error(parts, trial)
            better = error < least
            least = torch.where(better, error, least)
            best = Scale(
                torch.where(better, trial.scale, best.scale), torch.where(better, trial.zero, best.zero)
            )
        return best

    def _error(self, parts: Tensor, at: Scale) -> Tensor:
        rounded = self._round(parts, at.scale[..., None], at.zero[..., None])
        return (rounded - parts).abs_().pow_(2.4).sum(dim=-1)

    def _round(self, values: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        codes = torch.round(values / scale).add_(zero).clamp_(0, self.top)
        return codes.sub_(zero).mul_(scale)

    def quantize(self, weight: Tensor, at: Scale) -> Tensor:
        """The codes (out, in) of a weight, float values 0 .. top."""
        parts = self.groups(weight.float())
        return (
            torch.round(parts / at.scale[..., None]).add_(at.zero[..., None]).clamp_(0, self.top).flatten(1)
        )

    def dequantize(self, codes: Tensor, at: Scale) -> Tensor:
        """The weights (out, in) that codes stand for, float32."""
        return ((self.groups(codes) - at.zero[..., None]) * at.scale[..., None]).flatten(1)

    def round(self, weight: Tensor, at: Scale) -> Tensor:
        """The nearest weights on the grid, float32: dequantize(quantize(weight))."""
        return self._round(self.groups(weight.float()), at.scale[..., None], at.zero[..., None]).flatten(1)


@dataclass(frozen=True, eq=False)
class Scale:
    """Step and zero point of each group of a weight, both (out, groups), float32; zeros are whole numbers."""

    scale: Tensor
    zero: Tensor

    def split(self, sizes: Sequence[int]) -> list[Scale]:
        """Those of so many rows each."""
        rows = self.scale.split(list(sizes)), self.zero.split(list(sizes))
        return [Scale(scale, zero) for scale, zero in zip(*rows, strict=True)]


def divides(inputs: int, group_size: int) -> str:
    """The message for a group size that does not divide the inputs: what was got, and what would be right."""
    fitting = [size for size in (256, 128, 64, 32, 16, 8) if inputs % size == 0]
    return (
        f"group_size {group_size} does not divide {inputs} inputs; "
        f"{', '.join(map(str, fitting)) or 'no usual size'} would, or -1 for one group a row"
    )
