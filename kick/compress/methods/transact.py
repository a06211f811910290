"""TransAct, untrained: heads and channels whose inner activations are small are pruned, in several shots.

Bowen Shen, Zheng Lin, Daren Zha, Wei Liu, Jian Luan, Bin Wang, Weiping Wang: Pruning Large Language Models to
Intra-module Low-rank Architecture with Transitional Activations. Findings of ACL 2024, arXiv 2407.05690. A
channel's score is the L2 norm over tokens of what o or down reads; a head's is the mean of its channels plus
10 / head size times the largest. A shot prunes its part of what is still to go, and the next one measures
again. The published results come from long training after each shot, which is not part of this method.

Deviations: nothing is trained; whole heads only (without channels inside heads the rotary embedding has
other frequencies, which only training repairs); heads go in groups that share a key/value head, scored by the
mean of their heads' scores; `share` is of the block's weights, and channels make up for groups that do not
fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kick.compress.calibrate.statistics import InputNorm
from kick.compress.calibrate.walk import walk
from kick.compress.context import Calibration, calibration_of
from kick.compress.coupled import coupled
from kick.compress.method import method, option
from kick.compress.widths import (
    EqualWidths,
    KeptWidths,
    describe,
    largest,
    narrow,
    remaining,
)


@method(
    "transact",
    title="TransAct, untrained",
    paper="Shen et al., Findings of ACL 2024, arXiv 2407.05690",
    kind="structure",
    needs=("calibration", "structure"),
    feeds_forward=True,
    place=12,
    serves="Llama, Qwen3, Gemma 2, Gemma 3, OPT, GPT-2, GPT-NeoX, Phi-3",
)
@dataclass(frozen=True)
class TransAct(EqualWidths):
    """Heads and channels with small inner activations are removed in shots; the model is smaller."""

    share: float = option("of the weights of the blocks that is removed", low=0, high=0.95)
    shots: int = option("parts in which it is removed, activations measured anew for each", 8, low=1)

    fit = True

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        first, groups, channels = remaining(model, self.share, self.fit)
        size = first.kv_heads, first.channels
        for left in range(self.shots, 0, -1):
            smaller = after_shot(size[0], groups, left), after_shot(size[1], channels, left)
            if smaller == size:
                continue
            self._shot(model, calibration, smaller)
            describe(model, *smaller, first)
            calibration.memory = None  # the next shot does not measure the dense model
            size = smaller

    def _shot(self, model: nn.Module, calibration: Calibration, size: tuple[int, int]) -> None:
        for block in walk(model, calibration):
            structure = coupled(block.module, model)
            found = block.measure(InputNorm, structure.readers)
            inner, mlp = (norms(found[linear.name]) for linear in structure.readers)
            heads = head_scores(inner, structure.head).view(structure.kv_heads, -1).mean(dim=1)
            narrow(block.module, structure, KeptWidths(largest(heads, size[0]), largest(mlp, size[1])))


def norms(found: InputNorm) -> Tensor:
    """(in,): the L2 norm of each input over all tokens."""
    return found.tensors["squares"].sqrt()


def head_scores(channels: Tensor, head: int) -> Tensor:
    """(heads,): the mean of their channels' scores (heads x head,), plus 10 / head times the largest."""
    by_head = channels.view(-1, head)
    return by_head.mean(dim=1) + 10 / head * torch.amax(by_head, dim=1)


def after_shot(have: int, target: int, left: int) -> int:
    """How many units a shot leaves of those there are, if so many shots, itself included, are left."""
    return have - (have - target) // left
