"""LoRA: a product of two thin matrices is added to each weight matrix.

Edward J. Hu et al.: LoRA: Low-Rank Adaptation of Large Language Models. ICLR 2022, arXiv 2106.09685; after
structured pruning as in Xinyin Ma, Gongfan Fang, Xinchao Wang: LLM-Pruner. NeurIPS 2023, arXiv 2305.11627.
W + s B A, s = alpha / rank, or alpha / sqrt(rank) with `scale: root` (rsLoRA, arXiv 2312.03732; RoRA,
arXiv 2501.04315, is the same scale).

Deviations: no dropout; the loss is on all tokens of packed windows of plain text, not on answers of Alpaca.
Zeros would be filled, so that it is refused after unstructured pruning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kick.compress.method import method, option
from kick.recover.adapters import Beside, factors, of_factors, scale_of
from kick.recover.form import Adapted


@method(
    "recover-lora",
    title="LoRA",
    paper="Hu et al., ICLR 2022, arXiv 2106.09685",
    kind="recover",
    trains=True,
    place=10,
    serves="all but mixtures of experts and Mamba",
)
@dataclass(frozen=True, kw_only=True)
class Lora(Adapted):
    """Low-rank adapters of all matrices, trained and merged; where no weights were set to zero."""

    rank: int = option("of the adapters", 8, low=1)
    alpha: float = option("the product is scaled by alpha / rank", 16.0, low=1e-6)
    scale: str = option("by alpha / rank, or by alpha / sqrt(rank)", "rank", choices=("rank", "root"))

    fills = True

    def start(self, weight: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """A (rank, in) drawn, B (out, rank) zero."""
        return factors(weight, self.rank, generator)

    def forward(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, parts: Sequence[Tensor]
    ) -> Tensor:
        """x W^T + s (x A^T) B^T, without the product B A."""
        return Beside.apply(x, weight, bias, scale_of(self.scale, self.alpha, self.rank), *parts)

    def merged(self, weight: Tensor, mask: Tensor | None, *parts: Tensor) -> Tensor:
        """W + s B A."""
        a, b = parts
        return torch.addmm(weight.float(), b, a, alpha=scale_of(self.scale, self.alpha, self.rank))

    def gradients(
        self, grad: Tensor, weight: Tensor, mask: Tensor | None, *parts: Tensor
    ) -> tuple[Tensor, ...]:
        """s B^T G and s G A^T."""
        return of_factors(grad, scale_of(self.scale, self.alpha, self.rank), *parts)
