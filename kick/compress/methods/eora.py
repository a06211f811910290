"""EoRA: a low-rank side branch makes up for what compression changed, where inputs are large.

Shih-Yang Liu, Maksim Khadkevich, Nai Chit Fung, Charbel Sakr, Chao-Han Huck Yang, Chien-Yi Wang, Saurav
Muralidharan, Hongxu Yin, Kwang-Ting Cheng, Jan Kautz, Yu-Chiang Frank Wang, Pavlo Molchanov, Min-Hung Chen:
EoRA: Fine-tuning-free Compensation for Compressed LLM with Eigenspace Low-Rank Approximation. 2024, arXiv
2410.21271.

The paper projects the weight error D = W - W' into the eigenspace of the inputs, H = Q L Q^T, takes the
rank-r singular value decomposition of D Q L^1/2 and projects back. The left singular vectors U are the
eigenvectors of D H D^T, and projecting back gives B = U, A = U^T D, where an input that never occurs has no
say: the same branch with no decomposition of H. The branch is kept beside the weight, and its size is
counted.

Deviations: computed in that closed form; one pass block by block, each block fed what the compensated
blocks before it give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kick.compress.calibrate.statistics import Hessian
from kick.compress.calibrate.walk import shared, walk
from kick.compress.context import calibration_of
from kick.compress.dense import add_branch
from kick.compress.method import method, option
from kick.model.structure import check_called


@method(
    "eora",
    title="EoRA",
    paper="Liu et al., 2024, arXiv 2410.21271",
    kind="compensate",
    needs=("calibration",),
    feeds_forward=True,
    place=10,
    serves="all but mixtures of experts and Mamba",
)
@dataclass(frozen=True)
class Eora:
    """A low-rank side branch for what earlier steps changed."""

    rank: int = option("of the side branch", low=1)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if a matrix is used without a call."""
        check_called(model, "eora")

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        kept = calibration_of(calibration).dense
        if kept is None:
            raise RuntimeError("the dense weights were not kept for eora")
        for block in walk(model, calibration):
            dense = kept.of(block.index)
            for hessian, group in shared(block.measure(Hessian), block.linears):
                for linear in group:
                    change = dense[linear.name].to(linear.weight.device).float() - linear.weight.float()
                    down, up = branch(change, hessian.matrix, self.rank)
                    add_branch(linear.module, down, up)


def branch(change: Tensor, hessian: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A (rank, in) and B (out, rank) for a weight error (out, in) and X^T X (in, in)."""
    _, vectors = torch.linalg.eigh(change @ hessian @ change.t())  # eigenvalues rise
    up = vectors[:, -min(rank, len(change)) :].flip(1)
    return up.t() @ change, up
