"""LLM Surgeon: what goes is chosen by a Kronecker-factored Fisher matrix, and all remaining weights make up.

Tycho F. A. van der Ouderaa, Markus Nagel, Mart van Baalen, Yuki M. Asano, Tijmen Blankevoort: The LLM
Surgeon. ICLR 2024, arXiv 2312.17244. A matrix's Fisher matrix is approximated by G (x) A: A the mean of a a^T
over its inputs, G the mean of g g^T over the gradients of its outputs, the labels being the text's. The loss
of w is w^2 / (2 G^-1_ii A^-1_jj), of row i (W A W^T)_ii / (2 G^-1_ii), of a column alike. One threshold over
all matrices chooses, and the rest of each matrix becomes what minimises the quadratic loss. Several shots,
with curvature measured anew in each. Weights are only set to zero: nothing gets smaller.

Deviations: exactly the number asked for goes (the published rule takes one more), counted without overlaps of
rows and columns; rows and columns of one matrix are updated jointly, which is exact; all weights are
correlated at once, by conjugate gradients, not 2,000 at a time; 5 shots by default, not 40; the gradients'
damping is 0.1 for all structures. No LoRA between shots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.calibrate.gradients import backward
from kick.compress.context import Calibration, calibration_of
from kick.compress.method import method, option
from kick.compress.pruning import check_pattern, clear
from kick.compress.sparsity import Sparsity, mask
from kick.errors import CellFailed, KickError
from kick.model import Linear, named_linears
from kick.model.structure import check_called

ITERATIONS = 200  # of conjugate gradients; more are noted
RESIDUAL = 1e-7  # of the right side, at which they end


@dataclass(frozen=True, eq=False)
class Curvature:
    """A matrix's factors as measured, and, each made when first asked for, their damped forms in float64 and
    the inverses of these: A (in, in), G (out, out)."""

    means: tuple[Tensor, Tensor]
    damping: tuple[float, float]  # shares of the mean diagonals added to the diagonals of A and G
    name: str

    @cached_property
    def a(self) -> Tensor:
        return damp(self.means[0], self.damping[0])

    @cached_property
    def g(self) -> Tensor:
        return damp(self.means[1], self.damping[1])

    @cached_property
    def a_inverse(self) -> Tensor:
        return self._inverse(self.a)

    @cached_property
    def g_inverse(self) -> Tensor:
        return self._inverse(self.g)

    @property
    def added(self) -> tuple[float, float]:
        """What is added to the diagonals of A and G."""
        first, second = (
            share * float(one.diagonal().mean()) for share, one in zip(self.damping, self.means, strict=True)
        )
        return first, second

    def _inverse(self, factor: Tensor) -> Tensor:
        """The inverse. Raises CellFailed: not positive definite."""
        lower, failed = torch.linalg.cholesky_ex(factor)
        if failed or not torch.isfinite(lower.diagonal()).all():
            raise CellFailed(
                f"the curvature of {self.name} is not positive definite; use more calibration sequences, or "
                "a larger damping"
            )
        return torch.cholesky_inverse(lower)

    def elements(self, weight: Tensor) -> Tensor:
        """(out, in): the loss of removing each weight."""
        return weight.square() / (2 * self.g_inverse.diagonal()[:, None] * self.a_inverse.diagonal())

    def apply(self, change: Tensor) -> Tensor:
        """G change A."""
        return self.g @ change @ self.a


@method(
    "llm-surgeon",
    title="LLM Surgeon",
    paper="van der Ouderaa et al., ICLR 2024, arXiv 2312.17244",
    kind="prune",
    needs=("calibration", "gradients"),
    place=95,
    chooses="one threshold over all matrices chooses",
    serves="all but mixtures of experts and Mamba",
)
@dataclass(frozen=True)
class LlmSurgeon:
    """Weights, or rows and columns, go by a Kronecker-factored Fisher matrix, and the others make up."""

    sparsity: Sparsity = option("the share pruned of all weights, or n:m = n pruned of each m")
    structure: str = option("what goes at a time", "element", choices=("element", "row-column"))
    shots: int = option("in how many steps, curvature measured anew in each", 5, low=1)
    damping: float = option("share of the mean diagonal added to A", 0.01, low=1e-6, high=1)
    damping_outputs: float = option("share of the mean diagonal added to G", 0.1, low=1e-6, high=1)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if a matrix is not called, or the pattern does not fit."""
        check_called(model, "llm-surgeon")
        check_pattern(model, self.sparsity)
        if self.structure != "element" and self.sparsity.m:
            raise KickError("llm-surgeon: rows and columns have no n:m; choose a share, or structure element")

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        found = {name: one for name, _, one in named_linears(model) if calibration.scope.covers(name)}
        kept = {
            name: _or_all(calibration.kept(name, linear.weight), linear.weight)
            for name, linear in found.items()
        }
        choose = self._elements if self.structure == "element" else _lines
        for shot in range(1, self.shots + 1):
            share = self.sparsity.share if shot == self.shots else self.sparsity.share * shot / self.shots
            curvatures = _Curvatures(
                dict(zip(found, curvature(model, calibration, list(found.values())), strict=True)),
                (self.damping, self.damping_outputs),
            )
            kept = choose(found, curvatures, kept, Sparsity(share))
            for name, linear in found.items():
                self._update(linear, curvatures[name], kept[name], calibration, name)
                curvatures.forget(name)
        for name, linear in found.items():
            clear(linear.weight, kept[name])
            calibration.keep(name, kept[name], self.sparsity)

    def _elements(
        self,
        found: Mapping[str, Linear],
        curvatures: Mapping[str, Curvature],
        kept: Mapping[str, Tensor],
        level: Sparsity,
    ) -> dict[str, Tensor]:
        """The weights to keep, of all matrices together, by their loss."""
        losses = []
        for name, linear in found.items():
            loss = curvatures[name].elements(linear.weight.double()).float()
            loss.masked_fill_(~kept[name], -torch.inf)
            if self.sparsity.m:  # only the n least of each m may go
                loss = loss.masked_fill(mask(loss, self.sparsity), torch.inf)
            losses.append(loss)
        flat = torch.cat([loss.flatten() for loss in losses])[None]
        whole = mask(flat, level, "matrix")[0].split([loss.numel() for loss in losses])
        return {
            name: part.view(loss.shape) & kept[name]
            for (name, loss, part) in zip(found, losses, whole, strict=True)
        }

    def _update(
        self, linear: Linear, factors: Curvature, kept: Tensor, calibration: Calibration, name: str
    ) -> None:
        weight = linear.weight.double()
        if self.structure == "element":
            made, missing = filled(weight, kept, factors)
            if missing > RESIDUAL:
                calibration.note("conjugate gradients ended early", linear=name, residual=missing)
        else:
            made = lines(weight, kept.any(dim=1), kept.any(dim=0), factors)
        if not made.sum().isfinite():
            raise CellFailed(f"the update of {name} has NaN or infinity in it")
        linear.put(made)


class _Curvatures(Mapping[str, Curvature]):
    """The curvature of each matrix, made anew each time: all at once in float64, with their inverses, would
    take ten times the memory of the model."""

    def __init__(self, means: dict[str, tuple[Tensor, Tensor]], damping: tuple[float, float]) -> None:
        self._means, self._damping = means, damping

    def __getitem__(self, name: str) -> Curvature:
        return Curvature(self._means[name], self._damping, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._means)

    def __len__(self) -> int:
        return len(self._means)

    def forget(self, name: str) -> None:
        """Free the factors of a matrix."""
        del self._means[name]


def _or_all(known: Tensor | None, weight: Tensor) -> Tensor:
    return torch.ones_like(weight, dtype=torch.bool) if known is None else known


def damp(factor: Tensor, share: float) -> Tensor:
    """A symmetric matrix in float64 with a share of its mean diagonal added to the diagonal."""
    wide = factor.double().clone()
    wide.diagonal().add_(share * wide.diagonal().mean())
    return wide


def curvature(
    model: nn.Module, calibration: Calibration, found: Sequence[Linear]
) -> list[tuple[Tensor, Tensor]]:
    """A and G of each matrix: means over tokens, the gradients those of a sequence's mean cross-entropy."""
    sums = []
    for linear in found:
        rows, columns = linear.weight.shape
        device = linear.weight.device
        sums.append((torch.zeros(columns, columns, device=device), torch.zeros(rows, rows, device=device)))
    with _watched(model, found, sums):
        count = backward(model, calibration)
    return [(a.div_(count), g.div_(count)) for a, g in sums]


@contextmanager
def _watched(
    model: nn.Module, found: Sequence[Linear], sums: Sequence[tuple[Tensor, Tensor]]
) -> Iterator[None]:
    """Within it a forward and backward pass adds to the sums; gradients begin at the embeddings."""

    def begin(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output.detach().requires_grad_(True)

    handles = [model.get_input_embeddings().register_forward_hook(begin)]  # type: ignore[operator]
    try:
        for linear, pair in zip(found, sums, strict=True):
            handles.append(linear.module.register_forward_hook(_adder(*pair)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adder(a: Tensor, g: Tensor) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
    def see(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        rows = args[0].detach().flatten(0, -2).float()
        a.addmm_(rows.t(), rows)
        output.register_hook(back)

    def back(gradient: Tensor) -> None:
        rows = gradient.flatten(0, -2).float()
        g.addmm_(rows.t(), rows)

    return see


def filled(weight: Tensor, kept: Tensor, factors: Curvature) -> tuple[Tensor, float]:
    """The weight (out, in) with zeros outside `kept` that minimises the quadratic loss, and how much of the
    equations is left unsolved. Conjugate gradients, preconditioned by the inverses: each iteration lowers the
    loss, so that it is never above that of zeroing alone."""
    gone = weight.masked_fill(kept, 0.0)
    change = torch.zeros_like(weight)
    residual = factors.apply(gone) * kept
    start = torch.linalg.vector_norm(residual)
    if start == 0:
        return weight - gone, 0.0
    direction, old = torch.zeros_like(weight), 1.0
    for _ in range(ITERATIONS):
        preconditioned = (factors.g_inverse @ residual @ factors.a_inverse) * kept
        new = float((residual * preconditioned).sum())
        direction = preconditioned + (new / old) * direction
        spread = factors.apply(direction) * kept
        length = new / float((direction * spread).sum())
        change += length * direction
        residual -= length * spread
        old = new
        if torch.linalg.vector_norm(residual) <= RESIDUAL * start:
            break
    return (weight - gone + change) * kept, float(torch.linalg.vector_norm(residual) / start)


def lines(weight: Tensor, rows: Tensor, columns: Tensor, factors: Curvature) -> Tensor:
    """The weight (out, in) with zeros outside the kept rows and columns that minimises the quadratic loss."""
    stays = rows[:, None] & columns
    if not stays.any():
        return torch.zeros_like(weight)
    gone = weight.masked_fill(stays, 0.0)
    push = factors.apply(gone)[rows][:, columns]
    left = torch.linalg.solve(factors.g[rows][:, rows], push)
    change = torch.linalg.solve(factors.a[columns][:, columns], left.t()).t()
    made = torch.zeros_like(weight)
    made[stays] = (weight[rows][:, columns] + change).flatten()
    return made


def row_losses(weight: Tensor, inputs: Tensor, inverse: Tensor, added: float) -> Tensor:
    """(out,): the loss of removing each row. Of the inputs' factor, `added` to its diagonal is taken off."""
    product = ((weight @ inputs) * weight).sum(dim=1) - added * weight.square().sum(dim=1)
    return product / (2 * inverse.diagonal())


def _lines(
    found: Mapping[str, Linear],
    curvatures: Mapping[str, Curvature],
    kept: Mapping[str, Tensor],
    level: Sparsity,
) -> dict[str, Tensor]:
    """What to keep of all matrices if rows and columns with the least losses go."""
    names = list(found)
    losses, stays = [], []
    for name in names:
        weight, one = found[name].weight.double(), curvatures[name]
        rows, columns = kept[name].any(dim=1), kept[name].any(dim=0)
        losses.append(row_losses(weight, one.a, one.g_inverse, one.added[0]).masked_fill(~rows, torch.inf))
        losses.append(
            row_losses(weight.t(), one.g, one.a_inverse, one.added[1]).masked_fill(~columns, torch.inf)
        )
        stays += [rows.clone(), columns.clone()]
    have = sum(int((~kept[name]).sum()) for name in names)
    goal = level.count(sum(one.numel() for one in kept.values()))
    cheapest(losses, stays, goal - have)
    return {name: stays[2 * i][:, None] & stays[2 * i + 1] & kept[name] for i, name in enumerate(names)}


def cheapest(losses: Sequence[Tensor], stays: Sequence[Tensor], budget: int) -> None:
    """Take lines of matrices out of `stays` (rows, then columns, of each) from the least loss up, until the
    next one would make the weights removed more than the budget."""
    flat = torch.cat(list(losses))
    places = [(kind, place) for kind, one in enumerate(losses) for place in range(len(one))]
    for index in flat.argsort(stable=True).tolist():
        kind, place = places[index]
        across = int(stays[kind + 1 if kind % 2 == 0 else kind - 1].sum())  # what is left of it
        if across > budget or flat[index] == torch.inf:
            return
        stays[kind][place] = False
        budget -= across
