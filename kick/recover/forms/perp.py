"""PERP's small parts: norms, biases, and MaskLoRA beside them.

Max Zimmer, Megi Andoni, Christoph Spiegel, Sebastian Pokutta: PERP: Rethinking the Prune-Retrain Paradigm in
the Era of LLMs. 2023, arXiv 2312.15230. `parts` says which are trained: the weights of norms (those of the
blocks and the final one), all biases, and adapters of the matrices.

Deviations: those of `recover-masklora`; the embedding and the head are never trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kick.compress.method import method, option
from kick.errors import KickError
from kick.recover.adapters import adapted, check_adapted, merge, named_parts
from kick.recover.form import RecoveryForm, Trained
from kick.recover.forms.masklora import MaskLora
from kick.recover.parameters import biases, freed, norms

PARTS = ("norms", "biases", "norms+biases", "norms+biases+masklora")


@method(
    "recover-perp",
    title="PERP",
    paper="Zimmer et al., 2023, arXiv 2312.15230",
    kind="recover",
    trains=True,
    place=15,
)
@dataclass(frozen=True, kw_only=True)
class Perp(RecoveryForm):
    """Norms, biases or both are trained, and MaskLoRA with them; zeros stay."""

    parts: str = option("what is trained", "norms", choices=PARTS)
    rank: int = option("of MaskLoRA's adapters", 8, low=1)
    alpha: float = option("of MaskLoRA's adapters", 16.0, low=1e-6)
    lr: float = option("the highest learning rate", 1e-3, low=0)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the model has no such parameters."""
        parts = self.parts.split("+")
        if "biases" in parts and not biases(model) and "norms" not in parts:
            raise KickError(f"{type(model).__name__} has no biases to train; choose parts: norms")
        if "norms" in parts and not norms(model):
            raise KickError(f"{type(model).__name__} has no norms with weights; choose another form")
        if "masklora" in parts:
            check_adapted(model, self.name)

    @contextmanager
    def trained(
        self, model: nn.Module, masks: Mapping[str, Tensor], generator: torch.Generator
    ) -> Iterator[Trained]:
        """While open, the parts are trained."""
        parts = self.parts.split("+")
        own = norms(model) if "norms" in parts else {}
        own |= biases(model) if "biases" in parts else {}
        with freed(own):
            if "masklora" not in parts:
                yield Trained(own)
                return
            form = MaskLora(rank=self.rank, alpha=self.alpha)
            with adapted(model, form, masks, generator) as adapters:
                yield Trained(own | named_parts(adapters), lambda: merge(form, adapters))
