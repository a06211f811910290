"""What a recipe that trains needs beside its calibration: text, and a folder for checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from kick.catalog import trains_on_text
from kick.compress.calibrate.windows import Tokenised, TrainingText
from kick.compress.context import Calibration
from kick.compress.method import methods
from kick.paths import cache_root
from kick.records import Step, key


def supply(
    context: Calibration,
    recipe: Sequence[Step],
    tokenised: Tokenised,
    load: Callable[[], Any],
    identity: Sequence[Any],
) -> None:
    """Give a recipe that trains its text and a folder for checkpoints.

    load: loads the dense model. identity: JSON values, the model's and its calibration's.
    """
    if not any(map(trains_on_text, recipe)):
        return
    context.texts = TrainingText(tokenised, load, identity[0])
    kinds = ("prune", "structure", "recover")  # what follows changes nothing that is trained
    upto = [asdict(step) for step in recipe if methods[step.method].kind in kinds]
    context.work = cache_root() / "training" / key([*identity, upto])
