"""LLM-Pruner: coupled structures go by a first-order estimate of what the loss would change.

Xinyin Ma, Gongfan Fang, Xinchao Wang: LLM-Pruner: On the Structural Pruning of Large Language Models.
NeurIPS 2023, arXiv 2305.11627. A weight's importance is |w dL/dw|; a structure's is the sum over all its
weights in all matrices that it couples. The model is really smaller afterwards. The paper's recovery by
fine-tuning is not part of this method.

Deviations: every block keeps the same numbers, the first and last ones too (the authors' scripts leave some
blocks whole), since no model of transformers describes widths that differ from block to block; heads go in
groups that share a key/value head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kick.compress.calibrate.gradients import Gradients, gradients
from kick.compress.calibrate.walk import walk
from kick.compress.context import calibration_of
from kick.compress.coupled import Coupled, UnitRows, coupled
from kick.compress.method import method, option
from kick.compress.widths import EqualWidths, KeptWidths, describe, largest, narrow, remaining
from kick.model import Linear


@method(
    "llm-pruner",
    title="LLM-Pruner",
    paper="Ma et al., NeurIPS 2023, arXiv 2305.11627",
    kind="structure",
    needs=("calibration", "gradients", "structure"),
    place=20,
    serves="Llama, Qwen3, Gemma 2, Gemma 3, OPT, GPT-2, GPT-NeoX, Phi-3; Mixtral, Qwen3-MoE (attention)",
)
@dataclass(frozen=True)
class LlmPruner(EqualWidths):
    """Heads and channels are removed by weight times gradient; the model is smaller."""

    share: float = option("of heads and of MLP channels that go", low=0, high=0.95)
    fit: bool = option(
        "the share is of the blocks' weights: channels make up for groups of heads that do not fit", False
    )

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        first, groups, channels = remaining(model, self.share, self.fit)
        with gradients(model, calibration, "sum") as sums:
            for block in walk(model, calibration):
                structure = coupled(block.module, model)
                heads, mlp = importance(structure, sums, block.index)
                narrow(block.module, structure, KeptWidths(largest(heads, groups), largest(mlp, channels)))
        describe(model, groups, channels, first)


def importance(structure: Coupled, sums: Gradients, block: int) -> tuple[Tensor, Tensor]:
    """The importance of each group of heads (groups,) and of each MLP channel (channels,)."""

    def change(linear: Linear) -> Tensor:
        return (linear.weight.float() * sums.of(block, linear)).abs_()

    rows = {linear.name: change(linear).sum(dim=1) for linear in structure.attention + structure.feedforward}

    def given(part: UnitRows) -> Tensor:
        return part.of(rows[part.linear.name])

    heads = structure.by_group(given(structure.q) + change(structure.o).sum(dim=0)).sum(dim=1)
    for part in (structure.k, structure.v):
        heads += structure.by_group(given(part)).sum(dim=1)
    if structure.down is None:
        return heads, heads.new_empty(0)
    mlp = sum(map(given, structure.mlp), torch.zeros(()).to(heads))
    return heads, mlp + change(structure.down).sum(dim=0)
