"""ScaleLoRA: each weight is multiplied by an entry of a low-rank matrix.

Max Zimmer, Megi Andoni, Christoph Spiegel, Sebastian Pokutta: PERP: Rethinking the Prune-Retrain Paradigm in
the Era of LLMs. 2023, arXiv 2312.15230. W (B A), elementwise, with all entries 1 / sqrt(rank) at the start,
so that B A = 1; zeros stay. The published code's forward calls a function that does not exist; this is its
merge, in training too. All columns of A, and all of B, start equal and get equal gradients, so that the rank
does not come into play: it is 1 in effect. That is the paper's start, and it is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kick.compress.method import method, option
from kick.recover.adapters import of_factors
from kick.recover.form import Adapted


@method(
    "recover-scalelora",
    title="ScaleLoRA",
    paper="Zimmer et al., 2023, arXiv 2312.15230",
    kind="recover",
    trains=True,
    place=30,
    serves="all but mixtures of experts and Mamba",
)
@dataclass(frozen=True, kw_only=True)
class ScaleLora(Adapted):
    """Weights are multiplied by a low-rank matrix of factors, trained and merged; zeros stay."""

    rank: int = option("of the factors", 8, low=1)

    def start(self, weight: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """A (rank, in) and B (out, rank), all 1 / sqrt(rank)."""
        rows, columns = weight.shape
        value = 1 / math.sqrt(self.rank)
        a = torch.full((self.rank, columns), value, device=weight.device)
        return a, torch.full((rows, self.rank), value, device=weight.device)

    def merged(self, weight: Tensor, mask: Tensor | None, *parts: Tensor) -> Tensor:
        """W (B A)."""
        return scaled(weight, *parts)

    def gradients(
        self, grad: Tensor, weight: Tensor, mask: Tensor | None, *parts: Tensor
    ) -> tuple[Tensor, ...]:
        """B^T (G W) and (G W) A^T."""
        return of_factors(grad.mul_(weight), 1.0, *parts)


def scaled(weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """W (B A), elementwise, in float32."""
    return weight.float() * (b @ a)
