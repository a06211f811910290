"""Masked training in full with SLoPe's backward pass: gradients of the inputs through doubly pruned weights.

Mohammad Mozaffari, Amir Yazdanbakhsh, Zhao Zhang, Maryam Mehri Dehnavi: SLoPe: Double-Pruned Sparse Plus Lazy
Low-Rank Adapter Pretraining of LLMs. ICLR 2025, arXiv 2405.16325. Forward with the n:m weights W1; the
gradient of the input goes through W2, which is W1 pruned n:m again along its outputs; the gradient of the
weight is masked. This is masked fine-tuning with that backward pass: the paper pretrains, which is out of
reach here. `adapter` is the rank of its late adapter: for the last `late` of the steps, one at least,
x L R / r is added, L (in, r) normal and R zero at the start, both trained beside the weights. It stays beside
them as a side branch, since a merge would fill the zeros, and is counted in the size.

Deviations: fine-tuning, as said; no matrix is left out for its shape, as the published library does at 5:1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.dense import add_branch
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
    adapter: int = option("rank of the late adapter, 0 for none", 0, low=0)
    late: float = option(
        "the share of the steps that the adapter is trained in, the last ones", 0.01, low=0, high=1
    )

    def branches(self) -> bool:
        """Whether it leaves side branches beside the weights."""
        return bool(self.adapter)

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
        sides = [
            LateAdapter.drawn(module.weight, self.adapter, generator) for module in modules if self.adapter
        ]
        parts = {
            f"{one[0]}.{side}": part
            for one, late in zip(found, sides, strict=False)
            for side, part in late.named()
        }
        first = self.schedule.steps - max(1, math.ceil(self.late * self.schedule.steps))

        def begin(step: int) -> None:
            for late in sides:
                late.on = step >= first

        with freed(own):
            try:
                for place, ((name, linear), module) in enumerate(zip(found, modules, strict=True)):
                    kept = masks.get(name, torch.ones_like(linear.weight, dtype=torch.bool))
                    late = sides[place] if sides else None
                    kept = kept.to(linear.weight.device)
                    module.forward = partial(_forward, module, kept, self.pattern, late)
                yield Trained(
                    own | parts,
                    merge=partial(_leave, modules, sides),
                    after_step=cleared(model, masks, own),
                    before_step=begin,
                )
            finally:
                for module in modules:
                    del module.forward


@dataclass(eq=False)
class LateAdapter:
    """x L R / r beside a matrix: down (r, in) is L's transpose, up (out, r) R's; off until it is its time."""

    down: nn.Parameter
    up: nn.Parameter
    on: bool = False

    @classmethod
    def drawn(cls, weight: Tensor, rank: int, generator: torch.Generator) -> LateAdapter:
        """At the start: L normal, R zero, both float32."""
        down = torch.randn(rank, weight.shape[1], generator=generator).to(weight.device)
        up = torch.zeros(weight.shape[0], rank, device=weight.device)
        return cls(nn.Parameter(down), nn.Parameter(up))

    def named(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters by name."""
        return [("late_down", self.down), ("late_up", self.up)]

    def __call__(self, x: Tensor) -> Tensor:
        """What is added to the output (..., out) for x (..., in)."""
        thin = nn.functional.linear(x, self.down.to(x.dtype))
        return nn.functional.linear(thin, self.up.to(x.dtype)) / len(self.down)


@torch.no_grad()
def _leave(modules: Sequence[nn.Module], sides: Sequence[LateAdapter]) -> None:
    """Leave the adapters beside their weights."""
    for module, late in zip(modules, sides, strict=False):
        add_branch(module, late.down / len(late.down), late.up)
        late.on = False


def _forward(
    module: nn.Linear, kept: Tensor, sparsity: Sparsity, late: LateAdapter | None, x: Tensor
) -> Tensor:
    found = DoublePruned.apply(x, module.weight, kept, sparsity, module.bias)
    return found + late(x) if late is not None and late.on else found
