"""What a recipe that trains needs beside its calibration: text, and a folder for checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kick.compress.calibrate.windows import texts
from kick.compress.context import Calibration
from kick.compress.method import methods
from kick.paths import cache_root
from kick.records import Step, key

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def trains(recipe: Sequence[Step]) -> bool:
    """Whether a step of the recipe trains."""
    return any(methods[step.method].trains for step in recipe)


def supply(
    context: Calibration,
    recipe: Sequence[Step],
    tokenizer: PreTrainedTokenizerBase,
    data_root: str | None = None,
    identity: Any = None,
) -> None:
    """Give a recipe that trains its text, and, if `identity` says what is trained, a folder for checkpoints.

    identity: JSON values, the model's and its calibration's.
    """
    if not trains(recipe):
        return
    context.texts = texts(tokenizer, data_root)
    if identity is not None:
        kinds = ("prune", "structure", "recover")  # what follows changes nothing that is trained
        upto = [asdict(step) for step in recipe if methods[step.method].kind in kinds]
        context.work = cache_root() / "training" / key([identity, upto])
