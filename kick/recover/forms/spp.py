"""SPP: each weight is multiplied by 1 + s times an entry of a matrix of rows and columns.

Xudong Lu, Aojun Zhou, Yuhui Xu, Renrui Zhang, Peng Gao, Hongsheng Li: SPP: Sparsity-Preserved
Parameter-Efficient Fine-Tuning for Large Language Models. ICML 2024, arXiv 2405.16057. W (1 + s R c): c
(out,) starts at zero; R has 16 rows of length in, drawn at the start, each for out / 16 outputs in a row.
Zeros stay without a mask. The 16 is fixed in the published code; s = alpha / rank.

Deviations: no dropout on the branch; plain text in packed windows in place of Alpaca-GPT4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kick.compress.method import method, option
from kick.errors import KickError
from kick.model import named_linears
from kick.recover.form import Adapted

ROWS = 16


@method(
    "recover-spp",
    title="SPP",
    paper="Lu et al., ICML 2024, arXiv 2405.16057",
    kind="recover",
    trains=True,
    place=40,
    serves="all but mixtures of experts, Mamba, Mamba-2 and Qwen3.5",
)
@dataclass(frozen=True, kw_only=True)
class Spp(Adapted):
    """Weights are multiplied by factors of rows and columns, trained and merged; zeros stay."""

    rank: int = option("the factors are scaled by alpha / rank; their number is fixed", 8, low=1)
    alpha: float = option("the factors are scaled by alpha / rank", 16.0, low=1e-6)
    lr: float = option("the highest learning rate", 4e-3, low=0)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if a matrix has no called module, or outputs that 16 does not divide."""
        super().check(model)
        for name, _, linear in named_linears(model):
            if linear.weight.shape[0] % ROWS:
                raise KickError(
                    f"{self.name} needs outputs that are a multiple of {ROWS}, but {name} has "
                    f"{linear.weight.shape[0]}; choose `recover: masklora`"
                )

    def start(self, weight: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """R (16, in) drawn, c (out,) zero."""
        bound = 1 / math.sqrt(weight.shape[1])
        rows = torch.rand(ROWS, weight.shape[1], generator=generator).mul_(2 * bound).sub_(bound)
        return rows.to(weight.device), torch.zeros(weight.shape[0], device=weight.device)

    def merged(self, weight: Tensor, mask: Tensor | None, *parts: Tensor) -> Tensor:
        """W (1 + s R c)."""
        return factored(self.alpha / self.rank, weight, *parts)

    def gradients(
        self, grad: Tensor, weight: Tensor, mask: Tensor | None, *parts: Tensor
    ) -> tuple[Tensor, ...]:
        """Of R: s c (G W), summed over the outputs of a row; of c: s R (G W), summed over the inputs."""
        rows, columns = parts
        grouped = grad.mul_(weight).mul_(self.alpha / self.rank).unflatten(0, (ROWS, -1))
        return (
            (columns.view(ROWS, 1, -1) @ grouped)[:, 0],
            (grouped @ rows[:, :, None]).flatten(),
        )


def factored(scale: float, weight: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """W (1 + s R c) in float32: rows (16, in), columns (out,)."""
    spread = rows.repeat_interleave(weight.shape[0] // ROWS, dim=0)
    return weight.float() * (1 + scale * spread * columns[:, None])
