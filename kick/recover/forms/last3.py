"""The last three blocks and the final norm, trained in full, after blocks were dropped.

Yao Lu, Hao Cheng, Yujie Fang, Zeyu Wang, Jiaheng Wei, Dongwei Xu, Qi Xuan, Xiaoniu Yang, Zhaowei Zhu:
Reassessing Layer Pruning in LLMs: New Insights and Methods. 2024, arXiv 2411.15558. The paper trains the last
three blocks left and the head; its code the final norm too. Where the head is tied to the input embedding,
training it would train the embedding as well: `head: false`, the default, leaves the head out, and
`head: true` is refused for such a model.

Deviations: that default; plain text in packed windows in place of Alpaca; learning rate and schedule are the
step's own. Weights that pruning set to zero stay zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kick.compress.method import method, option
from kick.errors import KickError
from kick.model import blocks
from kick.recover.form import RecoveryForm, Trained
from kick.recover.parameters import cleared, final_norm, freed, head_of, named_blocks, tied


@method(
    "recover-last3",
    title="Last three blocks",
    paper="Lu et al., 2024, arXiv 2411.15558",
    kind="recover",
    trains=True,
    place=50,
)
@dataclass(frozen=True, kw_only=True)
class Last3(RecoveryForm):
    """The last blocks and the final norm are trained in full; nothing below them changes."""

    blocks: int = option("how many of the last blocks", 3, low=1)
    head: bool = option("whether the head is trained; not where it is tied to the embedding", False)
    lr: float = option("the highest learning rate", 1e-5, low=0)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if there are fewer blocks, or a tied head is to be trained."""
        if self.blocks > len(blocks(model)):
            raise KickError(f"{self.name} trains {self.blocks} blocks; the model has {len(blocks(model))}")
        if self.head and tied(model):
            raise KickError(
                f"the head of {type(model).__name__} is tied to its input embedding, and training it would "
                "train both; choose `head: false`"
            )

    @contextmanager
    def trained(
        self, model: nn.Module, masks: Mapping[str, Tensor], generator: torch.Generator
    ) -> Iterator[Trained]:
        """While open, the last blocks, the final norm and perhaps the head are trained."""
        own = named_blocks(model, self.blocks) | final_norm(model)
        own |= head_of(model) if self.head else {}
        with freed(own):
            yield Trained(own, after_step=cleared(model, masks, own))
