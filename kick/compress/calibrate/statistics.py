"""What a method measures of a linear's inputs: streaming, constant memory, one for each distinct input.

A statistic starts empty, takes the tokens of one sample at a time, (tokens, in), and is read at the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from scipy.linalg import blas
from torch import Tensor

_STRIP = 192  # rows of a triangle that are mirrored at a time: no second matrix is made


class Statistic(ABC):
    """Tensors that sum up samples: `tensors` are the state, `samples` and `tokens` what it saw.

    gated: it is of an expert's inputs times the router's weight of their token.
    """

    kind: ClassVar[str] = ""
    gated: ClassVar[bool] = False

    def __init__(self, inputs: int, device: torch.device | str = "cpu"):
        self.inputs = inputs
        self.samples = 0
        self.tokens = 0
        self.seen = True  # else it is the neutral one
        self.tensors: dict[str, Tensor] = self.empty(inputs, device)

    @abstractmethod
    def empty(self, inputs: int, device: torch.device | str) -> dict[str, Tensor]:
        """The state before the first sample."""

    def add(self, x: Tensor) -> None:
        """Take in one sample, (tokens, in)."""
        self.samples += 1
        self.tokens += x.shape[0]
        self._sum(x.float())

    @abstractmethod
    def _sum(self, x: Tensor) -> None:
        """Add (tokens, in), float32, to the state."""

    def neutral(self) -> None:
        """Become what inputs of one in every channel, independent of each other, would have left."""
        self.seen = False
        self.samples = self.tokens = 1
        for tensor in self.tensors.values():
            tensor.fill_(1)

    @property
    def finite(self) -> bool:
        """Whether no NaN or infinity came in."""
        return all(bool(torch.isfinite(tensor.sum())) for tensor in self.tensors.values())


class InputNorm(Statistic):
    """Each input's squared L2 norm over the tokens of a sample, averaged over samples (Wanda, GBLM)."""

    kind = "input_norm"

    def empty(self, inputs: int, device: torch.device | str) -> dict[str, Tensor]:
        return {"squares": torch.zeros(inputs, device=device)}

    def _sum(self, x: Tensor) -> None:
        self.tensors["squares"] += x.square().sum(dim=0)

    @property
    def square(self) -> Tensor:
        """(in,): the mean over samples of the squared norm."""
        return self.tensors["squares"] / self.samples

    @property
    def norm(self) -> Tensor:
        """(in,): its square root."""
        return self.square.sqrt()


class GatedInputNorm(InputNorm):
    """`InputNorm` where an expert's inputs count times the router's weight of their token (MoE-Pruner)."""

    kind = "gated_input_norm"
    gated = True


class Hessian(Statistic):
    """2/samples x the sum of X^T X, (in, in): the layer-wise squared error's second derivative.

    It is symmetric: on a CPU only the upper triangle is summed up, by BLAS's symmetric update, which is half
    the work.
    """

    kind = "hessian"

    def empty(self, inputs: int, device: torch.device | str) -> dict[str, Tensor]:
        return {"gram": torch.zeros(inputs, inputs, device=device)}

    def _sum(self, x: Tensor) -> None:
        gram = self.tensors["gram"]
        if gram.device.type != "cpu":
            gram.addmm_(x.t(), x)
            return
        # C's rows are Fortran's columns: lower there is upper here
        whole = gram.numpy().T
        summed = blas.ssyrk(1.0, x.contiguous().numpy().T, beta=1.0, c=whole, lower=1, overwrite_c=1)
        if summed.ctypes.data != whole.ctypes.data:
            raise RuntimeError("BLAS summed into a copy")

    def neutral(self) -> None:
        super().neutral()
        self.samples = self.tokens = 2
        self.tensors["gram"].zero_().fill_diagonal_(1)

    @property
    def finite(self) -> bool:
        """Whether no NaN or infinity came in: no product of two inputs is larger than both their squares."""
        return bool(torch.isfinite(self.tensors["gram"].diagonal().sum()))

    @property
    def triangle(self) -> Tensor:
        """(in, in), a copy that may be written to; what is below its diagonal means nothing."""
        return self.tensors["gram"] * (2 / self.samples)

    @property
    def matrix(self) -> Tensor:
        """(in, in), a copy that may be written to."""
        matrix = self.triangle
        for start in range(0, self.inputs, _STRIP):
            end = min(start + _STRIP, self.inputs)
            square = matrix[start:end, start:end].triu()
            matrix[start:end, start:end] = square + square.triu(diagonal=1).t()
            matrix[end:, start:end] = matrix[start:end, end:].t()
        return matrix


class AbsMax(Statistic):
    """Each input's largest absolute value over all tokens (SmoothQuant, LLM.int8())."""

    kind = "abs_max"

    def empty(self, inputs: int, device: torch.device | str) -> dict[str, Tensor]:
        return {"largest": torch.zeros(inputs, device=device)}

    def _sum(self, x: Tensor) -> None:
        torch.maximum(self.tensors["largest"], x.abs().amax(dim=0), out=self.tensors["largest"])

    @property
    def value(self) -> Tensor:
        """(in,)."""
        return self.tensors["largest"]


class Moments(Statistic):
    """Each input's mean and variance over all tokens (FLAP)."""

    kind = "moments"

    def empty(self, inputs: int, device: torch.device | str) -> dict[str, Tensor]:
        zeros = torch.zeros(inputs, device=device, dtype=torch.float64)
        return {"total": zeros, "squares": zeros.clone()}

    def _sum(self, x: Tensor) -> None:
        wide = x.double()  # a square in float32 has lost the variance of a mean a thousand times as large
        self.tensors["total"] += wide.sum(dim=0)
        self.tensors["squares"] += wide.square().sum(dim=0)

    @property
    def mean(self) -> Tensor:
        """(in,)."""
        return (self.tensors["total"] / self.tokens).float()

    @property
    def variance(self) -> Tensor:
        """(in,), unbiased."""
        spread = self.tensors["squares"] - self.tensors["total"].square() / self.tokens
        return (spread / max(self.tokens - 1, 1)).clamp_(min=0).float()
