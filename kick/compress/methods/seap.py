"""SEAP: FLAP's score on the text of a task, with more pruned in deeper blocks.

Xun Liang, Hanyu Wang, Huayi Lai, Simin Niu, Shichao Song, Jiawei Yang, Jihao Zhao, Feiyu Xiong, Bo Tang,
Zhiyu Li: SEAP: Training-free Sparse Expert Activation Pruning Unlock the Brainpower of Large Language Models.
2025, arXiv 2503.07605. A block's share follows a logistic curve over the depth of the blocks that are not
protected. The published calibration text is questions with their right answers, from the training splits of
the tasks that are then tested: compare only with flap calibrated on the same text.

Deviations: `share` is of the weights of all blocks, and what the protected ones keep the others lose (the
published share is the mean over unprotected blocks: of 32, 0.5 prunes 0.44); heads go in groups that share a
key/value head, and channels make up for groups that do not fit; variances are exact (the published running
variance lacks the first sample's). The calibration text is the matrix's: one text, not a weighted sum over
tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

from torch import Tensor, nn

from kick.compress import uneven
from kick.compress.calibrate.statistics import Moments
from kick.compress.calibrate.walk import walk
from kick.compress.context import calibration_of
from kick.compress.coupled import coupled, structures
from kick.compress.method import method, option
from kick.compress.methods.flap import choice
from kick.compress.widths import add_bias, fitted, narrow
from kick.errors import KickError

MOST = 0.95  # of a block's weights


@method(
    "seap",
    title="SEAP",
    paper="Liang et al., 2025, arXiv 2503.07605",
    kind="structure",
    needs=("calibration", "structure"),
    feeds_forward=True,
    task_data=True,
    place=14,
    serves="Llama, Qwen3, Gemma 2, Gemma 3, OPT, GPT-2, GPT-NeoX, Phi-3",
)
@dataclass(frozen=True)
class Seap(uneven.UnevenWidths):
    """Heads and channels that hardly vary on a task's text are removed, more of them in deeper blocks."""

    share: float = option("of the weights of all blocks that is removed", low=0, high=0.95)
    steepness: float = option("of the logistic curve over depth; 0 makes all shares equal", 0.8, low=0)
    middle: float = option("of the curve, 0 the first unprotected block and 1 the last", 0.3)
    first: int = option("how many blocks at the start stay whole", 2, low=0)
    last: int = option("how many blocks at the end stay whole", 2, low=0)
    bias: bool = option("add the mean of what is pruned to the biases", True)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if blocks have no units, or a share is more than a block can lose."""
        super().check(model)
        self.shares(model)

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        shares = self.shares(model)
        for block in walk(model, calibration):
            structure = coupled(block.module, model)
            size = fitted(structure.size, shares[block.index])
            found = block.measure(Moments, structure.readers)
            keeps, biases = choice(structure, found, size)
            narrow(block.module, structure, keeps)
            if self.bias:
                add_bias(structure, biases, model)
        calibration.note("shares", method="seap", values=[round(share, 6) for share in shares])

    def shares(self, model: nn.Module) -> list[float]:
        """What each block loses of its weights. Raises KickError if one would lose more than it can."""
        weights = [one.size.weights for one in structures(model)]
        inside = len(weights) - self.first - self.last
        if inside < 1:
            raise KickError(
                f"seap: {self.first} + {self.last} blocks are to stay whole, and the model has "
                f"{len(weights)}; choose smaller `first` and `last`"
            )
        curve = [0.0] * self.first + logistic(inside, self.steepness, self.middle) + [0.0] * self.last
        scale = self.share * sum(weights) / sum(map(mul, curve, weights))
        if max(curve) * scale > MOST:
            raise KickError(
                f"seap: a share of {self.share:g} would take {max(curve) * scale:.2f} of a block's weights; "
                f"at most {MOST:g} can go: choose a smaller share, or protect fewer blocks"
            )
        return [height * scale for height in curve]


def logistic(count: int, steepness: float, middle: float) -> list[float]:
    """A curve over so many blocks, whose places are 0 to 1: 1 / (1 + exp(-steepness (place - middle)))."""
    places = [index / (count - 1) if count > 1 else 0.0 for index in range(count)]
    return [1 / (1 + math.exp(-steepness * (place - middle))) for place in places]
