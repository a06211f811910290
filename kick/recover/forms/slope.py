"""Masked training in full with SLoPe's backward pass: gradients of the inputs through doubly pruned weights.

Mohammad Mozaffari, Amir Yazdanbakhsh, Zhao Zhang, Maryam Mehri Dehnavi: SLoPe: Double-Pruned Sparse Plus Lazy
Low-Rank Adapter Pretraining of LLMs. ICLR 2025, arXiv 2405.16325. Forward with the n:m weights W1; the
gradient of the input goes through W2, which is W1 pruned n:m again along its outputs; the gradient of the
weight is masked. This is masked fine-tuning with that backward pass: the paper pretrains, which is out of
reach here. Its late adapter is left out: beside sparse weights, `eora` gives one without training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.method import method, option
from kick.compress.sparsity import Sparsity, mask
from kick.errors import KickError
from kick.model import named_linears
from kick.recover.adapters import check_adapted
from kick.recover.form import RecoveryForm, Trained
from kick.recover.parameters import Parameters, cleared, freed


class DoublePruned(torch.autograd.Function):
    """x (..., in) times W1^T; the gradient of x goes through W2, that of the weight is masked."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, kept: Tensor, sparsity: Sparsity, bias: Tensor | None
    ) -> Tensor:
        """Output (..., out): kept (out, in) is W1's mask; W2 is pruned by the sparsity, going back."""
        ctx.save_for_backward(x, weight, kept)
        ctx.sparsity = sparsity
        return nn.functional.linear(x, weight * kept, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, the weight and the bias."""
        (grad,) = grads
        x, weight, kept = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        grad_weight = (rows.t() @ x.flatten(0, -2)) * kept
        grad_bias = rows.sum(dim=0) if ctx.needs_input_grad[4] else None
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ (weight * double_pruned(weight, kept, ctx.sparsity))
        return grad_x, grad_weight, None, None, grad_bias


def double_pruned(weight: Tensor, kept: Tensor, sparsity: Sparsity) -> Tensor:
    """Mask (out, in) of W2: of the weights kept, the largest n:m along the outputs."""
    saliency = (weight * kept).abs().float().t()
    return mask(saliency.contiguous(), sparsity, "row", "exact").t() & kept


@method(
    "recover-slope",
    title="Masked training, double-pruned backward",
    paper="Mozaffari et al., ICLR 2025, arXiv 2405.16325",
    kind="recover",
    trains=True,
    place=45,
    serves="all but GPT-2, mixtures of experts and Mamba",
)
@dataclass(frozen=True, kw_only=True)
class Slope(RecoveryForm):
    """All matrices are trained in full under their masks, with gradients through doubly pruned weights."""

    pattern: Sparsity = option("of the second pruning, along the outputs", Sparsity(0.5, 2, 4))
    lr: float = option("the highest learning rate", 1e-5, low=0)

    def check(self, model: nn.Module) -> None:
        """Raises KickError for a pattern that is not n:m or does not divide the outputs."""
        check_adapted(model, self.name)
        if not self.pattern.m:
            raise KickError(f"{self.name}: pattern {self.pattern}; expected n:m, e.g. 2:4")
        for name, _, linear in named_linears(model):
            outputs = linear.weight.shape[0]
            if outputs % self.pattern.m or not isinstance(linear.module, nn.Linear):
                raise KickError(
                    f"{self.name} needs nn.Linear with outputs that are a multiple of {self.pattern.m}, but "
                    f"{name} is a {type(linear.module).__name__} of {outputs}; choose `recover: masklora`"
                )

    @contextmanager
    def trained(
        self, model: nn.Module, masks: Mapping[str, Tensor], generator: torch.Generator
    ) -> Iterator[Trained]:
        """While open, all matrices are trained under their masks."""
        found = [(name, linear) for name, _, linear in named_linears(model)]
        modules: list[Any] = [linear.module for _, linear in found]
        own: Parameters = {f"{one[0]}.weight": m.weight for one, m in zip(found, modules, strict=True)}
        with freed(own):
            try:
                for (name, linear), module in zip(found, modules, strict=True):
                    kept = masks.get(name, torch.ones_like(linear.weight, dtype=torch.bool))
                    module.forward = partial(_forward, module, kept.to(linear.weight.device), self.pattern)
                yield Trained(own, after_step=cleared(model, masks, own))
            finally:
                for module in modules:
                    del module.forward


def _forward(module: nn.Linear, kept: Tensor, sparsity: Sparsity, x: Tensor) -> Tensor:
    return DoublePruned.apply(x, module.weight, kept, sparsity, module.bias)
