"""Drop block: one block, named by its number, is dropped; the others stay as they are.

Not a way to choose but a diagnosis: what a model loses without each of its blocks. Pengxiang Li, Lu Yin,
Shiwei Liu: Mix-LN: Unleashing the Power of Deeper Layers by Combining Pre-LN and Post-LN. ICLR 2025, arXiv
2412.13795. `kick study layers` measures it for all blocks of a model.

Deviations: numbers are those of the whole model's blocks. The authors' script deletes one after another by
the number that a block then has, so that with several the wrong ones go; here a step drops one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from kick.compress.context import calibration_of
from kick.compress.depth import Stack, check_depth, drop
from kick.compress.method import method, option
from kick.compress.twin import Form
from kick.errors import KickError
from kick.model import blocks


@method(
    "drop-block",
    title="Drop one block",
    paper="Li et al., ICLR 2025, arXiv 2412.13795",
    kind="structure",
    needs=("structure",),
    place=32,
)
@dataclass(frozen=True)
class DropBlock:
    """One block is dropped; the model is smaller."""

    block: int = option("the number of the block that is dropped, from 0", low=0)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the model has no such block, or no other."""
        check_depth(model, 1)
        count = len(blocks(model))
        if self.block >= count:
            raise KickError(f"drop-block: got block {self.block}; expected: 0 to {count - 1}")

    def forms(self, _model: nn.Module) -> list[Form]:
        """What the model becomes."""
        return [partial(_without, block=self.block)]

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        drop(model, {self.block}, calibration_of(calibration))


def _without(model: nn.Module, block: int) -> None:
    Stack.of(model).without({block}).place(model)
