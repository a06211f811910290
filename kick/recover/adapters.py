"""Adapters: a weight matrix (out, in) that is trained through a few tensors beside it, and merged into it.

A form says what its tensors are at the start and which matrix they make of the weight. That matrix is made
anew in the backward pass, so that no product of the adapter waits for it in memory, and its gradient is
taken once per matrix, not once per token.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kick.errors import CellFailed, KickError
from kick.model import Linear, named_linears

VERSION = 1  # 1: gradients of adapters by closed forms


class AdapterForm(Protocol):
    """Form of an adapter; `mask` (out, in): weights that pruning kept, None if nothing was pruned."""

    @abstractmethod
    def start(self, weight: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The adapter's tensors at the start, float32; with them the matrix is the weight."""

    @abstractmethod
    def forward(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, parts: Sequence[Tensor]
    ) -> Tensor:
        """Output (..., out) in training for x (..., in)."""

    @abstractmethod
    def merged(self, weight: Tensor, mask: Tensor | None, *parts: Tensor) -> Tensor:
        """The matrix (out, in) after training, float32, in memory of its own."""

    @abstractmethod
    def gradients(
        self, grad: Tensor, weight: Tensor, mask: Tensor | None, *parts: Tensor
    ) -> tuple[Tensor, ...]:
        """Gradients of the tensors for that of the matrix (out, in), float32, which may be overwritten."""


class Through(torch.autograd.Function):
    """x (..., in) times the matrix that an adapter makes of a frozen weight (out, in)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, form: AdapterForm, mask: Tensor | None,
        *parts: Tensor,
    ) -> Tensor:  # fmt: skip
        """Output (..., out)."""
        ctx.save_for_backward(x, weight, mask, *parts)
        ctx.form = form
        return nn.functional.linear(x, form.merged(weight, mask, *parts).to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, of the bias and of the adapter's tensors."""
        (grad,) = grads
        x, weight, mask, *parts = ctx.saved_tensors
        mask = None if mask is None else mask.float()  # once for both uses
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ ctx.form.merged(weight, mask, *parts).to(grad.dtype)
        rows = grad.flatten(0, -2)
        grad_bias = rows.sum(dim=0) if ctx.needs_input_grad[2] else None
        grad_matrix = (rows.t() @ x.flatten(0, -2)).float()
        return (grad_x, None, grad_bias, None, None, *ctx.form.gradients(grad_matrix, weight, mask, *parts))


class Beside(torch.autograd.Function):
    """x (..., in) times a frozen weight (out, in), and beside it s B A, whose product is never made.

    A (rank, in), B (out, rank). Thin products have the long side as their columns: the other way round they
    take three times as long.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, scale: float, a: Tensor, b: Tensor
    ) -> Tensor:
        """Output (..., out)."""
        rows = x.flatten(0, -2)
        thin = a.to(x.dtype) @ rows.t()
        ctx.save_for_backward(x, weight, a, b, thin)
        ctx.scale = scale
        found = nn.functional.linear(rows, weight, bias).addmm_(thin.t(), b.to(x.dtype).t(), alpha=scale)
        return found.unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, of the bias, of A and of B."""
        (grad,) = grads
        x, weight, a, b, thin = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        back = b.to(grad.dtype).t() @ rows.t()
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (rows @ weight).addmm_(back.t(), a.to(grad.dtype), alpha=ctx.scale)
            grad_x = grad_x.unflatten(0, x.shape[:-1])
        grad_bias = rows.sum(dim=0) if ctx.needs_input_grad[2] else None
        grad_a = (back @ x.flatten(0, -2)).float().mul_(ctx.scale)
        grad_b = (thin @ rows).float().mul_(ctx.scale).t()
        return grad_x, None, grad_bias, None, grad_a, grad_b


def factors(weight: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """LoRA's factors at the start: A (rank, in) drawn as peft does (Kaiming uniform), B (out, rank) zero."""
    bound = 1 / math.sqrt(weight.shape[1])
    a = torch.rand(rank, weight.shape[1], generator=generator).mul_(2 * bound).sub_(bound)
    return a.to(weight.device), torch.zeros(weight.shape[0], rank, device=weight.device)


def of_factors(grad: Tensor, scale: float, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of A (rank, in) and B (out, rank) for that of s B A (out, in)."""
    return (b.t() @ grad).mul_(scale), (grad @ a.t()).mul_(scale)


def scale_of(scale: str, alpha: float, rank: int) -> float:
    """alpha / rank, or for "root" alpha / sqrt(rank): rsLoRA's (arXiv 2312.03732), which RoRA takes too."""
    return alpha / (math.sqrt(rank) if scale == "root" else rank)


@dataclass(frozen=True, eq=False)
class Adapter:
    """A matrix with its adapter."""

    name: str
    linear: Linear
    mask: Tensor | None
    parts: tuple[nn.Parameter, ...]


def check_adapted(model: nn.Module, form: str) -> None:
    """Raises KickError if a matrix is used without a call of its module: an adapter would not be seen."""
    for name, _, linear in named_linears(model):
        if not linear.called:
            raise KickError(
                f"{form} trains adapters of matrices that are called as modules, but {name} of "
                f"{type(model).__name__} is used without a call; choose `recover: perp`, parts norms"
            )


@contextmanager
def adapted(
    model: nn.Module, form: AdapterForm, masks: Mapping[str, Tensor], generator: torch.Generator
) -> Iterator[list[Adapter]]:
    """While open, every matrix of the blocks is used through an adapter of its own.

    masks: of weights that pruning kept, (out, in), by a matrix's full name; others have nothing pruned.
    """
    named = [(name, linear) for name, _, linear in named_linears(model)]
    with adapted_each(named, form, masks, generator) as made:
        yield made


@contextmanager
def adapted_each(
    named: Sequence[tuple[str, Linear]],
    form: AdapterForm,
    masks: Mapping[str, Tensor],
    generator: torch.Generator,
) -> Iterator[list[Adapter]]:
    """The same of these matrices, each with its full name."""
    made = []
    try:
        for name, linear in named:
            mask = masks.get(name)
            mask = None if mask is None else mask.to(linear.weight.device)
            parts = tuple(nn.Parameter(part) for part in form.start(linear.weight, generator))
            module: Any = linear.module
            module.forward = partial(_forward, form, linear, mask, parts)
            made.append(Adapter(name, linear, mask, parts))
        yield made
    finally:
        for adapter in made:
            del adapter.linear.module.forward


def _forward(
    form: AdapterForm, linear: Linear, mask: Tensor | None, parts: Sequence[Tensor], x: Tensor
) -> Tensor:
    return form.forward(x, linear.weight, linear.bias, mask, parts)


@torch.no_grad()
def merge(form: AdapterForm, adapters: Sequence[Adapter]) -> None:
    """Put the matrices that the adapters make in the weights' place; pruned weights are +0.

    Raises CellFailed at NaN or infinity.
    """
    for adapter in adapters:
        matrix = form.merged(adapter.linear.weight, adapter.mask, *adapter.parts)
        if not matrix.sum().isfinite():
            raise CellFailed(f"training left NaN or infinity in {adapter.name}")
        if adapter.mask is not None:
            matrix = matrix.masked_fill(~adapter.mask, 0.0)
        adapter.linear.put(matrix)


def named_parts(adapters: Sequence[Adapter]) -> dict[str, nn.Parameter]:
    """The adapters' tensors by matrix and number."""
    return {f"{one.name}.{i}": part for one in adapters for i, part in enumerate(one.parts)}
