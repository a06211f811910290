"""FLAP: structures whose activations hardly vary are pruned, and a bias replaces their mean.

Yongqi An, Xu Zhao, Tao Yu, Ming Tang, Jinqiao Wang: Fluctuation-based Adaptive Structured Pruning for Large
Language Models. AAAI 2024, arXiv 2312.11983. An input channel's score is its variance times the squared
norm of the column that reads it; a head's is the mean over its channels. The model is really smaller
afterwards.

Deviations: every block keeps the same numbers (the paper's uniform structure, UL-UM), since no model of
transformers describes widths that differ from block to block; heads go in groups that share a key/value
head, scored by the mean of their channels' scores, where the published code squares those first; a channel's
variance is exact over all tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kick.compress.calibrate.statistics import Moments
from kick.compress.calibrate.walk import walk
from kick.compress.context import calibration_of
from kick.compress.coupled import Coupled, coupled
from kick.compress.method import method, option
from kick.compress.widths import (
    EqualWidths,
    KeptWidths,
    add_bias,
    describe,
    largest,
    narrow,
    remaining,
)


@method(
    "flap",
    title="FLAP",
    paper="An et al., AAAI 2024, arXiv 2312.11983",
    kind="structure",
    needs=("calibration", "structure"),
    feeds_forward=True,
    version=2,  # variances of squares in float64
    place=10,
    serves="Llama, Qwen3, Gemma 2, Gemma 3, OPT, GPT-2, GPT-NeoX, Phi-3; Mixtral, Qwen3-MoE (attention)",
)
@dataclass(frozen=True)
class Flap(EqualWidths):
    """Heads and channels that hardly vary are removed, and a bias compensates; the model is smaller."""

    share: float = option("of heads and of MLP channels that go", low=0, high=0.95)
    bias: bool = option("add the mean of what is pruned to the biases", True)
    fit: bool = option(
        "the share is of the blocks' weights: channels make up for groups of heads that do not fit", False
    )

    @property
    def biased(self) -> bool:
        """Whether o and down get biases."""
        return self.bias

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        first, groups, channels = remaining(model, self.share, self.fit)
        for block in walk(model, calibration):
            structure = coupled(block.module, model)
            found = block.measure(Moments, structure.readers)
            kept, biases = choice(structure, found, (groups, channels))
            narrow(block.module, structure, kept)
            if self.bias:
                add_bias(structure, biases, model)
        describe(model, groups, channels, first)


def choice(
    structure: Coupled, found: Mapping[str, Moments], size: tuple[int, int]
) -> tuple[KeptWidths, list[Tensor]]:
    """The units to keep, so many groups and channels, and what the others give on average: biases of o, down.

    found: moments of the inputs of o and down.
    """
    heads, channels = structure.scores(lambda linear: score(linear.weight, found[linear.name]))
    kept = KeptWidths(largest(heads, size[0]), largest(channels, size[1]))
    biases = []
    for linear, stays in structure.read_channels(kept.groups, kept.channels):
        mean = found[linear.name].mean.clone()
        mean[stays] = 0
        biases.append(linear.weight.float() @ mean)
    return kept, biases


def score(weight: Tensor, moments: Moments) -> Tensor:
    """(in,): the variance of each input times the squared norm of its column."""
    return moments.variance * torch.linalg.vector_norm(weight.float(), dim=0).square()
