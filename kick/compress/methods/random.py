"""Random pruning: the floor under every pruning method. The same seed prunes the same weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kick.compress.calibrate.walk import walk
from kick.compress.method import method, option
from kick.compress.pruning import Comparison, check_pattern, prune
from kick.compress.sparsity import Sparsity


@method(
    "random",
    title="Random pruning",
    paper="baseline; no paper",
    kind="prune",
    blockwise=True,
    place=10,
    look="quiet x :",
)
@dataclass(frozen=True)
class Random:
    """Weights chosen at random are pruned."""

    sparsity: Sparsity = option("the share pruned of each row, or n:m = n pruned of each m")
    seed: int = option("of the choice", 0, low=0)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the pattern does not fit the model."""
        check_pattern(model, self.sparsity)

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        for block in walk(model, calibration):
            for linear in block.linears:
                name = f"{self.seed} {block.full(linear)}"
                seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
                generator = torch.Generator().manual_seed(seed)
                saliency = torch.rand(linear.weight.shape, generator=generator).to(linear.weight.device)
                prune(block, linear, saliency, Comparison(self.sparsity))
