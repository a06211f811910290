"""MoE-Pruner: Wanda with the router's weights in the norms of the experts' inputs.

Yanyue Xie, Zhi Zhang, Ding Zhou, Cong Xie, Ziang Song, Xin Liu, Yanzhi Wang, Xue Lin, An Xu: MoE-Pruner:
Pruning Mixture-of-Experts Large Language Model using the Hints from Its Router. 2024, arXiv 2410.12013. A
weight of an expert has the saliency |w| x the norm of its input, each token's input times the weight that the
router gives this expert for it. All other matrices have Wanda's saliency, and routers stay as they are.

Deviations: the distillation of the experts that the paper adds is `recover: moe-distill`. The authors
published no code; the masks are checked against another implementation. An expert that no token reaches is
pruned by the size of its weights, and noted.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from kick.compress.calibrate.statistics import GatedInputNorm
from kick.compress.calibrate.walk import walk
from kick.compress.method import method, option
from kick.compress.methods.wanda import saliencies
from kick.compress.pruning import Comparison, check_pattern, prune
from kick.compress.sparsity import Sparsity
from kick.errors import KickError
from kick.model import blocks, linears


@method(
    "moe-pruner",
    title="MoE-Pruner",
    paper="Xie et al., 2024, arXiv 2410.12013",
    kind="prune",
    needs=("calibration",),
    feeds_forward=True,
    blockwise=True,
    place=35,
    serves="mixtures of experts: Mixtral, Qwen3-MoE, DeepSeek-V3",
)
@dataclass(frozen=True)
class MoePruner:
    """Absolute weight times input norm, experts' inputs times the router's weight; by row."""

    sparsity: Sparsity = option("the share pruned of each row, or n:m = n pruned of each m")

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the model is not a mixture of experts, or the pattern does not fit it."""
        check_mixture(model)
        check_pattern(model, self.sparsity)

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        for block in walk(model, calibration):
            for linear, saliency in saliencies(block, GatedInputNorm):
                prune(block, linear, saliency, Comparison(self.sparsity))


def check_mixture(model: nn.Module, name: str = "moe-pruner") -> None:
    """Raises KickError if no block has experts that are called with the router's choices and weights."""
    found = {id(x.module): x.module for one in blocks(model) for x in linears(one) if x.expert is not None}
    if not found:
        raise KickError(
            f"{type(model).__name__} has no experts that kick knows: {name} serves mixtures of experts "
            "(Mixtral, Qwen3-MoE); choose wanda, which moe-pruner is on a dense model"
        )
    for module in found.values():
        if len(inspect.signature(module.forward).parameters) < 3:
            raise KickError(
                f"{type(module).__name__} is not called with the router's weights, which {name} looks at; "
                "choose wanda"
            )
