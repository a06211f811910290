"""MaskLoRA: LoRA whose product is masked in training and in the merge.

Max Zimmer, Megi Andoni, Christoph Spiegel, Sebastian Pokutta: PERP: Rethinking the Prune-Retrain Paradigm in
the Era of LLMs. 2023, arXiv 2312.15230. W + s (B A) M: pruned weights stay zero, and the merge changes
nothing.

Deviations: M is the mask that the pruning step made, where the published code takes W != 0; packed windows,
where theirs pads and cuts documents; no weight decay.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kick.compress.method import method, option
from kick.recover.adapters import factors, of_factors, scale_of
from kick.recover.form import Adapted


@method(
    "recover-masklora",
    title="MaskLoRA",
    paper="Zimmer et al., 2023, arXiv 2312.15230",
    kind="recover",
    trains=True,
    place=20,
    serves="all but mixtures of experts and Mamba",
)
@dataclass(frozen=True, kw_only=True)
class MaskLora(Adapted):
    """Low-rank adapters of all matrices that leave pruned weights at zero, trained and merged."""

    rank: int = option("of the adapters", 8, low=1)
    alpha: float = option("the product is scaled by alpha / rank", 16.0, low=1e-6)
    scale: str = option("by alpha / rank, or by alpha / sqrt(rank)", "rank", choices=("rank", "root"))

    def start(self, weight: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """A (rank, in) drawn, B (out, rank) zero."""
        return factors(weight, self.rank, generator)

    def merged(self, weight: Tensor, mask: Tensor | None, *parts: Tensor) -> Tensor:
        """W + s (B A) M."""
        return masked(weight, mask, scale_of(self.scale, self.alpha, self.rank), *parts)

    def gradients(
        self, grad: Tensor, weight: Tensor, mask: Tensor | None, *parts: Tensor
    ) -> tuple[Tensor, ...]:
        """s B^T (G M) and s (G M) A^T."""
        grad = grad if mask is None else grad.mul_(mask)
        return of_factors(grad, scale_of(self.scale, self.alpha, self.rank), *parts)


def masked(weight: Tensor, mask: Tensor | None, scale: float, a: Tensor, b: Tensor) -> Tensor:
    """W + s (B A) M in float32; W is zero where M is."""
    made = torch.addmm(weight.float(), b, a, alpha=scale)
    return made if mask is None else made.mul_(mask)
