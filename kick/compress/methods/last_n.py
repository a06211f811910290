"""Last-n: the last blocks are dropped.

Yao Lu, Hao Cheng, Yujie Fang, Zeyu Wang, Jiaheng Wei, Dongwei Xu, Qi Xuan, Xiaoniu Yang, Zhaowei Zhu:
Reassessing Layer Pruning in LLMs: New Insights and Methods. 2024, arXiv 2411.15558. The paper fine-tunes
the head and the last layers afterwards; that is not part of this method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from kick.compress.context import calibration_of
from kick.compress.depth import check_depth, drop, last
from kick.compress.method import method, option
from kick.compress.twin import Form
from kick.model import blocks


@method(
    "last-n",
    title="Last n layers",
    paper="Lu et al., 2024, arXiv 2411.15558",
    kind="structure",
    needs=("structure",),
    place=30,
)
@dataclass(frozen=True)
class LastN:
    """The last n blocks are dropped; the model is smaller."""

    layers: int = option("how many blocks are dropped", low=1)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the model has no more blocks than that."""
        check_depth(model, self.layers)

    def forms(self, model: nn.Module) -> list[Form]:
        """What the model becomes."""
        return last(model, self.layers)

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        count = len(blocks(model))
        drop(model, range(count - self.layers, count), calibration_of(calibration))
