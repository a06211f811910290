"""LoRA-Prune: LoRA in training, its product masked when it is merged.

Max Zimmer, Megi Andoni, Christoph Spiegel, Sebastian Pokutta: PERP: Rethinking the Prune-Retrain Paradigm in
the Era of LLMs. 2023, arXiv 2312.15230 (their name for it; not LoRAPrune, arXiv 2305.18403, a criterion).
As in the published code training does not see the mask, so that the merge changes the function.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kick.compress.method import method
from kick.recover.adapters import scale_of
from kick.recover.forms.lora import Lora
from kick.recover.forms.masklora import masked


@method(
    "recover-lora-prune",
    title="LoRA, masked at the merge",
    paper="Zimmer et al., 2023, arXiv 2312.15230",
    kind="recover",
    trains=True,
    place=25,
    serves="all but mixtures of experts and Mamba",
)
@dataclass(frozen=True, kw_only=True)
class LoraPruneForm(Lora):
    """Low-rank adapters that fill zeros while they train; what they filled is dropped at the merge."""

    fills = False

    def merged(self, weight: Tensor, mask: Tensor | None, *parts: Tensor) -> Tensor:
        """W + s (B A) M."""
        return masked(weight, mask, scale_of(self.scale, self.alpha, self.rank), *parts)
