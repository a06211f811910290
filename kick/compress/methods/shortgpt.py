"""ShortGPT: the blocks that change the direction of their hidden states least are dropped.

Xin Men, Mingyu Xu, Qingyu Zhang, Bingning Wang, Hongyu Lin, Yaojie Lu, Xianpei Han, Weipeng Chen: ShortGPT:
Layers in Large Language Models are More Redundant Than You Expect. 2024, arXiv 2403.03853. Block influence
is 1 - cosine of a block's input and output, averaged over tokens, measured once on the dense model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kick.compress.context import Calibration, calibration_of
from kick.compress.depth import check_depth, drop, forms, outputs_of, run
from kick.compress.method import method, option
from kick.compress.twin import Form
from kick.errors import CellFailed
from kick.model import blocks


@method(
    "shortgpt",
    title="ShortGPT",
    paper="Men et al., 2024, arXiv 2403.03853",
    kind="structure",
    needs=("calibration", "structure"),
    place=40,
)
@dataclass(frozen=True)
class ShortGpt:
    """The blocks with the least influence are dropped; the model is smaller."""

    layers: int = option("how many blocks are dropped", low=1)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the model has no more blocks than that."""
        check_depth(model, self.layers)

    def forms(self, model: nn.Module) -> list[Form]:
        """What the model may become."""
        return forms(model, self.layers)

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        influence = block_influence(model, calibration)
        calibration.note("block influence", values=[round(value, 6) for value in influence.tolist()])
        drop(model, set(influence.argsort(stable=True)[: self.layers].tolist()), calibration)


def block_influence(model: nn.Module, calibration: Calibration) -> Tensor:
    """(blocks,): 1 - the mean cosine of input and output of each block."""
    modules = blocks(model)
    total = torch.zeros(len(modules), dtype=torch.float64)

    def see(index: int, before: Tensor, after: Tensor) -> None:
        cosine = nn.functional.cosine_similarity(before.float(), after.float(), dim=-1)
        total[index] += float(cosine.sum())

    with outputs_of(modules, see):
        count = run(model, calibration)
    influence = 1 - total / count
    if not influence.isfinite().all():
        first = int((~influence.isfinite()).nonzero()[0])
        raise CellFailed(f"block {first} has NaN or infinity in its input or output on the calibration data")
    return influence
