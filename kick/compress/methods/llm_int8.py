"""LLM.int8(): 8-bit rows times 8-bit tokens, with the few large features kept in full.

Tim Dettmers, Mike Lewis, Younes Belkada, Luke Zettlemoyer: LLM.int8(): 8-bit Matrix Multiplication for
Transformers at Scale. NeurIPS 2022, arXiv 2208.07339. Activations are really rounded in every forward pass.

Deviations: a feature is an outlier for the token where it passes the threshold, where the authors' kernel
takes a feature out for all tokens of a batch: here a score must not depend on what shares its batch.
Weights of outlier features are rounded like the rest, as the authors' library does at inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from kick.compress.activations import int8, round_inputs, round_rows
from kick.compress.calibrate.walk import walk
from kick.compress.context import calibration_of
from kick.compress.method import method, option
from kick.compress.quantizing import store
from kick.model.structure import check_called


@method(
    "llm.int8",
    title="LLM.int8()",
    paper="Dettmers et al., NeurIPS 2022, arXiv 2208.07339",
    kind="quantize",
    activations=True,
    place=60,
    bits=8,
    serves="all but mixtures of experts and Mamba",
)
@dataclass(frozen=True)
class LlmInt8:
    """8-bit weights and activations, large features kept in full (activations really rounded)."""

    threshold: float = option("absolute value from which a feature is kept in full", 6.0, low=0)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if a matrix is used without a call."""
        check_called(model, "llm.int8")

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        for block in walk(model, calibration):
            for linear in block.linears:
                rounded = round_rows(linear.weight.float())
                store(block, linear, rounded, calibration, int8(linear.weight.shape[1]))
                round_inputs(linear, self.threshold)
