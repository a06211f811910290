"""LoRAPrune's criterion, untrained: importance of heads and channels from the gradients of LoRA's factors.

Mingyang Zhang, Hao Chen, Chunhua Shen, Zhen Yang, Linlin Ou, Xinyi Yu, Bohan Zhuang: LoRAPrune: Structured
Pruning Meets Low-Rank Parameter-Efficient Fine-Tuning. Findings of ACL 2024, arXiv 2305.18403. A weight's
gradient is replaced by gB A + B gA - gB gA, where gA and gB are the gradients of the factors; its sensitivity
is the absolute value of that times the merged weight. Sums over a unit's weights are divided by their norm in
each matrix and added over the matrices of attention or MLP; a running mean over steps ranks the units. While
it runs, the lowest are masked, more of them along a cubic curve.

Deviations: LoRA is not trained, so that B stays 0 and A as it was drawn: this is the criterion alone, to be
compared with llm-pruner; each calibration sequence is a step; all blocks lose the same, the first and last
ones too; heads go in groups that share a key/value head; `share` is of the blocks' weights, met in the end
(the published code stops below it), and channels make up for groups that do not fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from kick.compress.calibrate.gradients import backward
from kick.compress.context import Calibration, calibration_of
from kick.compress.coupled import Coupled, structures
from kick.compress.method import method, option
from kick.compress.switches import switched
from kick.compress.widths import EqualWidths, KeptWidths, describe, narrow, remaining
from kick.errors import CellFailed
from kick.model import Linear, blocks

DECAY = 0.9  # of the running mean over steps
RAMP = 0.1  # of the steps at either end in which the share stays


@dataclass(frozen=True, eq=False)
class Factors:
    """LoRA's factors of a matrix: A (rank, in), B (out, rank), or their gradients."""

    a: Tensor
    b: Tensor


@method(
    "loraprune",
    title="LoRAPrune's criterion",
    paper="Zhang et al., Findings of ACL 2024, arXiv 2305.18403",
    kind="structure",
    needs=("calibration", "gradients", "structure"),
    place=26,
    serves="Llama, Qwen3, Gemma 2, Gemma 3, OPT, GPT-2, GPT-NeoX, Phi-3",
)
@dataclass(frozen=True)
class LoraPrune(EqualWidths):
    """Heads and channels are removed by gradients of low-rank factors alone; the model is smaller."""

    share: float = option("of the weights of the blocks that is removed", low=0, high=0.95)
    rank: int = option("of LoRA's factors", 8, low=1)
    alpha: float = option("the factors' product is scaled by alpha / rank", 16.0, low=1e-6)

    fit = True

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        first, groups_left, channels_left = remaining(model, self.share, self.fit)
        found = structures(model)
        gone = first.size.groups - groups_left, first.size.channels - channels_left
        on = [(torch.ones(one.kv_heads), torch.ones(one.channels)) for one in found]
        ranked = self._ranked(model, calibration, on, gone)
        for block, structure, units in zip(blocks(model), found, ranked, strict=True):
            narrow(block, structure, KeptWidths.where(*units, structure.o.weight.device))
        describe(model, groups_left, channels_left, first)

    def _ranked(
        self,
        model: nn.Module,
        calibration: Calibration,
        on: list[tuple[Tensor, Tensor]],
        gone: tuple[int, int],
    ) -> list[tuple[Tensor, Tensor]]:
        """Which groups and channels of each block are on after all steps."""
        found = structures(model)
        factors = [{linear.name: self._drawn(linear) for linear in matrices(one)} for one in found]
        means = [(torch.zeros_like(groups), torch.zeros_like(channels)) for groups, channels in on]
        total = len(calibration)
        for step, ids in enumerate(calibration, 1):
            with switched(found, on), branches(found, factors, self.alpha / self.rank):
                backward(model, replace(calibration, sequences=[ids]))
            ramp = schedule(step, total)
            for block, structure in enumerate(found):
                new = importance(structure, factors[block], self.alpha / self.rank)
                means[block] = tuple(map(running, means[block], new))  # type: ignore[assignment]
                on[block] = tuple(  # type: ignore[assignment]
                    without(mask, mean, math.floor(ramp * count + 1e-9))
                    for mask, mean, count in zip(on[block], means[block], gone, strict=True)
                )
                for one in factors[block].values():
                    one.b.grad = None
        return on

    def _drawn(self, linear: Linear) -> Factors:
        """A as PEFT draws it, uniform within 1 / sqrt(in), and B = 0."""
        rows, columns = linear.weight.shape
        a = (2 * torch.rand(self.rank, columns) - 1) / math.sqrt(columns)
        b = torch.zeros(rows, self.rank, device=linear.weight.device, requires_grad=True)
        return Factors(a.to(linear.weight.device), b)


@contextmanager
def branches(found: Sequence[Coupled], factors: Sequence[dict[str, Factors]], scale: float) -> Iterator[None]:
    """Within it scale B A x is added to what each matrix gives, and B gets gradients."""
    handles = []
    try:
        for structure, parts in zip(found, factors, strict=True):
            for linear in matrices(structure):
                handles.append(linear.module.register_forward_hook(_adds(parts[linear.name], scale)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adds(one: Factors, scale: float) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    def hook(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        low = nn.functional.linear(args[0].float(), one.a)
        return output + (scale * nn.functional.linear(low, one.b)).to(output.dtype)

    return hook


def importance(structure: Coupled, factors: dict[str, Factors], scale: float) -> tuple[Tensor, Tensor]:
    """The importance of a block's groups (groups,) and channels (channels,) in one step.

    Raises CellFailed at NaN or infinity.
    """
    found = {}
    for linear in matrices(structure):
        one = factors[linear.name]
        gradients = Factors(torch.zeros_like(one.a), cast(Tensor, one.b.grad))
        each = sensitivity(linear.weight.float(), Factors(one.a, one.b.detach()), gradients, scale)
        sums = structure.sums(linear, each.sum(dim=0 if linear in structure.readers else 1))
        if not sums.sum().isfinite():
            raise CellFailed(f"a gradient of {linear.name} has NaN or infinity in it")
        found[linear.name] = normalised(sums).cpu()
    heads, mlp = (
        torch.stack([found[linear.name] for linear in part]).sum(dim=0) for part in _sides(structure)
    )
    return heads, mlp


def matrices(structure: Coupled) -> list[Linear]:
    """A block's matrices, those of the attention first."""
    attention, mlp = _sides(structure)
    return attention + mlp


def _sides(structure: Coupled) -> tuple[list[Linear], list[Linear]]:
    """The matrices of the attention and those of the MLP, the one that reads units last."""
    return [*structure.attention, structure.o], [*structure.feedforward, *structure.readers[1:]]


def sensitivity(weight: Tensor, factors: Factors, gradients: Factors, scale: float) -> Tensor:
    """(out, in): the absolute value of the replaced gradient times the merged weight."""
    replaced = gradients.b @ factors.a + factors.b @ gradients.a - gradients.b @ gradients.a
    return (replaced * (weight + scale * (factors.b @ factors.a))).abs()


def normalised(sums: Tensor) -> Tensor:
    """The sums over their norm, as they are if all are 0."""
    norm = torch.linalg.vector_norm(sums)
    return sums / norm if norm > 0 else sums


def running(mean: Tensor, new: Tensor) -> Tensor:
    """The running mean, of 0 at first."""
    return DECAY * mean + (1 - DECAY) * new


def schedule(step: int, total: int) -> float:
    """The part of what is to go that is off at a step: 0, then a cubic curve, then 1 as in the last step."""
    begin, end = RAMP * total, (1 - RAMP) * total
    if step <= begin:
        return 0.0
    return 1 - (1 - min((step - begin) / (end - begin), 1.0)) ** 3


def without(on: Tensor, scores: Tensor, count: int) -> Tensor:
    """What is on if so many are off in all: those that are off already, then the lowest scores."""
    order = scores.masked_fill(on == 0, -torch.inf).argsort(stable=True)
    mask = torch.ones_like(on)
    mask[order[: max(count, int((on == 0).sum()))]] = 0
    return mask
