"""Adapt-Pruner, untrained: heads and channels are removed in small steps, less where a block matters more.

Rui Pan, Shivanshu Shekhar, Boyao Wang, Shizhe Diao, Jipeng Zhang, Xingyuan Pan, Renjie Pi, Tong Zhang:
Adapt-Pruner: Adaptive Structural Pruning for Efficient Small Language Model Training. 2025, arXiv 2502.03460
(version 3; in version 1 Boyao Wang is first). In each step a block's importance is minus the mean cosine of
its input and output, centred over blocks and divided by the largest magnitude; its share grows by the step
less amplitude times importance. Within a block the units with the least first-order Taylor importance go, as
in LLM-Pruner. The published models are trained between steps, which is not part of this method: it is the
rule for the blocks' shares.

Deviations: nothing is trained; it stops at a share of the blocks' weights, not at a number of parameters; a
block's share never falls, since what is removed is gone, and after clipping all shares are moved alike until
their mean is the step's target; heads go in groups that share a key/value head, and in the last step channels
make up for groups that do not fit; what a step leaves unchanged is not measured again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kick.compress import uneven
from kick.compress.calibrate.gradients import gradients
from kick.compress.context import Calibration, calibration_of
from kick.compress.coupled import BlockSize, coupled, structures
from kick.compress.depth import outputs_of
from kick.compress.method import method, option
from kick.compress.methods.llm_pruner import importance
from kick.compress.sparsity import Sparsity
from kick.compress.widths import fitted, narrow
from kick.errors import CellFailed
from kick.model import blocks

MOST = 0.99  # the published limit of a block's share


@method(
    "adapt-pruner",
    title="Adapt-Pruner, untrained",
    paper="Pan et al., 2025, arXiv 2502.03460",
    kind="structure",
    needs=("calibration", "gradients", "structure"),
    place=22,
    serves="Llama, Qwen3, Gemma 2, Gemma 3, OPT, GPT-2, GPT-NeoX, Phi-3",
)
@dataclass(frozen=True)
class AdaptPruner(uneven.UnevenWidths):
    """Heads and channels are removed by weight times gradient in steps, fewer where a block matters more."""

    share: float = option("of the weights of all blocks that is removed", low=0, high=0.9)
    steps: int = option("in how many steps, blocks measured anew in each", 50, low=1)
    amplitude: float = option("how much a block's importance changes its share in a step", 0.02, low=0)

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        whole = [one.size for one in structures(model)]
        shares = [0.0] * len(whole)
        matter: list[float] | None = None
        for step in range(1, self.steps + 1):
            if matter is None:  # something changed since it was measured
                scores, matter = _measured(model, calibration)
            target = self.share * step / self.steps
            shares = moved(shares, raised(shares, matter, self.share / self.steps, self.amplitude), target)
            last = step == self.steps
            sizes = [
                fitted(one, share) if last else floored(one, share)
                for one, share in zip(whole, shares, strict=True)
            ]
            if _narrow(model, scores, sizes):
                matter = None
        calibration.note("shares", method="adapt-pruner", values=[round(share, 6) for share in shares])


Scores = list[tuple[Tensor, Tensor]]  # of each block's groups and channels


def _measured(model: nn.Module, calibration: Calibration) -> tuple[Scores, list[float]]:
    """The Taylor importance of each block's units, and how much each block matters: one pass for both."""
    modules = blocks(model)
    cosines = torch.zeros(len(modules), 2, dtype=torch.float64)  # their sum, and of how many

    def see(index: int, before: Tensor, after: Tensor) -> None:
        cosine = nn.functional.cosine_similarity(before.detach().double(), after.detach().double(), dim=-1)
        cosines[index] += torch.tensor([float(cosine.sum()), cosine.numel()])

    with outputs_of(modules, see), gradients(model, calibration, "sum") as sums:
        scores = [importance(coupled(module, model), sums, index) for index, module in enumerate(modules)]
    means = cosines[:, 0] / cosines[:, 1]
    if not means.isfinite().all():
        raise CellFailed("a block's input or output has NaN or infinity in it on the calibration data")
    return scores, relative(means)


def _narrow(model: nn.Module, scores: Scores, sizes: Sequence[tuple[int, int]]) -> bool:
    """Bring each block to its size, the least important units first; whether anything was removed."""
    changed = False
    for block, (heads, channels), size in zip(blocks(model), scores, sizes, strict=True):
        structure = coupled(block, model)
        size = min(structure.kv_heads, size[0]), min(structure.channels, size[1])
        if size != (structure.kv_heads, structure.channels):
            narrow(block, structure, uneven.kept(heads, channels, size))
            changed = True
    return changed


def relative(cosines: Tensor) -> list[float]:
    """How much each block matters, in -1 to 1, of the mean cosines of their input and output (blocks,)."""
    matter = cosines.mean() - cosines
    largest = matter.abs().max()
    return (matter / largest if largest > 0 else matter).tolist()


def raised(shares: Sequence[float], matter: Sequence[float], step: float, amplitude: float) -> list[float]:
    """The published rule: each share grows by the step less amplitude times importance, within 0 to 0.99."""
    return [
        min(max(share + step - amplitude * one, 0.0), MOST) for share, one in zip(shares, matter, strict=True)
    ]


def moved(before: Sequence[float], shares: Sequence[float], target: float) -> list[float]:
    """The shares moved by one number, none below what it was before, so that their mean is `target`."""

    def at(shift: float) -> list[float]:
        return [min(max(share + shift, low), MOST) for share, low in zip(shares, before, strict=True)]

    if abs(sum(at(0.0)) / len(shares) - target) < 1e-12:
        return at(0.0)
    low, high = -1.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(at(middle)) / len(shares) < target else (low, middle)
    return at(high)


def floored(whole: BlockSize, share: float) -> tuple[int, int]:
    """How many groups and channels of a whole block are left by a share of each, rounded down."""
    level = Sparsity.parse(share)
    return whole.groups - level.count(whole.groups), whole.channels - level.count(whole.channels)
