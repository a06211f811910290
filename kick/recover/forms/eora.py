"""EoRA with fine-tuning: its side branches, trained, stay beside the pruned weights.

Shih-Yang Liu et al.: EoRA: Fine-tuning-free Compensation for Compressed LLM with Eigenspace Low-Rank
Approximation. 2024, arXiv 2410.21271. The paper proposes its branches as the start of a fine-tuning with
LoRA too. B A, of one rank, starts as what `eora` computes of the weights' change and the inputs; then A and B
are trained, everything else is frozen. Nothing is merged, so that pruned weights stay zero; the branches are
counted in the size.

Deviations: the inputs are those of the first `sequences` windows of `corpus`, not a calibration set of its
own; plain text in packed windows in place of the tasks' training sets; after pruning alone, since kick
rounds after training. The paper's learning rate was not rechecked: choose one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.calibrate.statistics import Hessian
from kick.compress.calibrate.walk import shared, walk
from kick.compress.context import Calibration, calibration_of
from kick.compress.dense import add_branch
from kick.compress.method import method, methods, option
from kick.compress.methods.eora import branch
from kick.errors import KickError
from kick.model import named_linears
from kick.records import Step
from kick.recover.adapters import check_adapted
from kick.recover.form import RecoveryForm, Trained, texts_of
from kick.recover.parameters import Parameters, freed


@method(
    "recover-eora",
    title="EoRA, fine-tuned",
    paper="Liu et al., 2024, arXiv 2410.21271",
    kind="recover",
    trains=True,
    place=35,
    serves="all but mixtures of experts and Mamba",
)
@dataclass(frozen=True, kw_only=True)
class EoraTuned(RecoveryForm):
    """Low-rank side branches that start from what pruning changed are trained; they are not merged."""

    rank: int = option("of the side branches", 8, low=1)
    sequences: int = option("windows of the corpus whose inputs the start is made for", 16, low=1)
    lr: float = option("the highest learning rate", 1e-4, low=0)

    dense = True  # the dense weights are kept for it

    def branches(self) -> bool:
        """Whether it leaves side branches beside the weights."""
        return True

    def follows(self, earlier: Sequence[Step]) -> None:
        """Raises KickError if there is nothing to make up for, or blocks have other shapes."""
        super().follows(earlier)
        if not earlier:
            raise KickError(f"{self.name} makes up for earlier steps: put it after one that prunes")
        for step in earlier:
            if methods[step.method].structured:
                raise KickError(f"{self.name} needs the dense weights in place; not after {step.method}")

    def check(self, model: nn.Module) -> None:
        """Raises KickError if a matrix is used without a call."""
        check_adapted(model, self.name)

    def __call__(self, model: Any, calibration: Sequence[Tensor]) -> None:
        """Add the branches, train them, and leave what it took in `calibration.training`."""
        calibration = calibration_of(calibration)
        if calibration.dense is None:
            raise RuntimeError("the dense weights were not kept for recover-eora")
        given = texts_of(calibration, self, model)  # once: the branches would change the ranking
        feed = Calibration(given[0][: self.sequences], offload=calibration.offload)
        for block in walk(model, feed):
            dense = calibration.dense.of(block.index)
            for hessian, group in shared(block.measure(Hessian), block.linears):
                for linear in group:
                    change = dense[linear.name].to(linear.weight.device).float() - linear.weight.float()
                    add_branch(linear.module, *branch(change, hessian.matrix, self.rank))
        self.fit(model, calibration, given)

    @contextmanager
    def trained(
        self, model: nn.Module, masks: Mapping[str, Tensor], generator: torch.Generator
    ) -> Iterator[Trained]:
        """While open, the branches that the matrices have are trained."""
        own: Parameters = {}
        for name, _, linear in named_linears(model):
            for side in ("side_down", "side_up"):
                own[f"{name}.{side}"] = linear.module.get_buffer(side)  # type: ignore[assignment]
        with freed(own):
            yield Trained(own)
