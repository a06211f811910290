"""How good a formula of a saliency is: the loss of the model pruned by it, on text that no task asks.

The gradients and inputs that formulas read are taken once, on the dense model, so that a formula costs a
saliency, a mask and one reading of the text. In a search every matrix is therefore pruned by what the dense
model shows, and not, as `kick run` does, by what the pruned blocks before it give; the comparison at the end
is by `kick run`'s way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kick import model, paths
from kick.compress.calibrate import corpus
from kick.compress.calibrate.gradients import gradients
from kick.compress.calibrate.statistics import InputNorm
from kick.compress.calibrate.walk import walk
from kick.compress.context import Calibration
from kick.compress.formula import Formula
from kick.compress.sparsity import Sparsity, mask
from kick.errors import KickError
from kick.model import Linear
from kick.model.owned import own
from kick.records import CalibrationSpec, ModelSpec

SHARED = 16  # tokens in a row that statistics and fitness text may not have in common


class Fitness:
    """A dense model with what formulas read of it; in memory are its weights twice, and its gradients.

    Args:
        statistics: sequences (1, length) for gradients and inputs. text: others, on which losses are taken.

    Raises KickError if the two have text in common.
    """

    def __init__(
        self, network: Any, statistics: Sequence[Tensor], text: Sequence[Tensor], sparsity: Sparsity
    ):
        if _parts(statistics) & _parts(text):
            raise KickError(
                "statistics and fitness share text: the corpus is too short for so many sequences; ask for "
                "fewer or shorter ones"
            )
        self.network, self.text, self.sparsity = network, list(text), sparsity
        self.matrices: list[tuple[Linear, Tensor, dict[str, Tensor]]] = []
        calibration = Calibration(tuple(statistics), "dense")
        with gradients(network, calibration, "squares") as sums:
            for block in walk(network, calibration, looks=True):
                norms = block.measure(InputNorm)
                for linear in block.linears:
                    dense = linear.weight.clone()
                    values = {"W": dense.float().abs(), "G": sums.of(block.index, linear).sqrt()}
                    self.matrices.append((linear, dense, values | {"X": norms[linear.name].square[None]}))

    @classmethod
    def of(
        cls,
        spec: ModelSpec,
        calibration: CalibrationSpec,
        text: int,
        sparsity: Sparsity,
        data_root: str | None,
    ) -> Fitness:
        """Of the calibration's sequences, and `text` further ones of the same corpus."""
        network, tokenizer = model.load(spec, device=paths.device())
        own(network)
        several = CalibrationSpec(
            calibration.corpus, calibration.sequences + text, calibration.length, calibration.seed
        )
        found = [one.to(network.device) for one in corpus.sequences(several, tokenizer, data_root)]
        return cls(network, found[: calibration.sequences], found[calibration.sequences :], sparsity)

    @torch.no_grad()
    def dense(self) -> float:
        """The dense model's loss, nats per token."""
        for linear, dense, _ in self.matrices:
            linear.weight.copy_(dense)
        return self._loss()

    @torch.no_grad()
    def __call__(self, formula: Formula) -> float | None:
        """The loss of the pruned model in nats per token; None if it or a saliency is not finite."""
        for linear, dense, values in self.matrices:
            saliency = formula(values).expand_as(dense).contiguous()
            if not saliency.isfinite().all():
                return None
            linear.weight.copy_(dense * mask(saliency, self.sparsity))
        loss = self._loss()
        return loss if math.isfinite(loss) else None

    def _loss(self) -> float:
        losses = [float(self.network(ids, labels=ids, use_cache=False).loss) for ids in self.text]
        return sum(losses) / len(losses)


def _parts(sequences: Sequence[Tensor]) -> set[tuple[int, ...]]:
    """All runs of SHARED tokens."""
    rows = [one[0].tolist() for one in sequences]
    return {tuple(row[at : at + SHARED]) for row in rows for at in range(len(row) - SHARED + 1)}
