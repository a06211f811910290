"""Which windows of a corpus are trained on: at random, by a ranking of the dense model's, or by PASER."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from torch import Tensor

from kick.compress.calibrate.ranking import Choose, Selection
from kick.compress.context import Texts, TextSpec
from kick.records import RANDOM
from kick.recover.paser import Paser

PASER = "paser"


class Chosen(NamedTuple):
    """Windows to train on, and others held out; `facts`: how they were chosen, as JSON values."""

    windows: list[Tensor]
    heldout: list[Tensor]
    facts: dict[str, Any]


def chosen(texts: Texts, spec: TextSpec, how: tuple[str, str], model: Any) -> Chosen:
    """The windows of a spec.

    Args:
        how: the way to select, and the part of a ranking that is kept.
        model: as it is before it is trained; PASER compares it with the dense one.

    Raises KickError if the dense model is needed and cannot be loaded again, or the corpus is too short.
    """
    select, keep = how
    if select == RANDOM:
        return Chosen(*texts(spec), {})
    start, cpu = time.monotonic(), time.process_time()
    paser = Paser(texts, model) if select == PASER else None
    choose: Choose = paser or texts.ranker.choose(Selection(select, keep, spec.pool))
    windows, heldout = texts(spec, choose)
    facts: dict[str, Any] = {"select": select, "candidates": spec.windows * spec.pool}
    facts |= paser.facts if paser else {"keep": keep}
    facts |= {
        "seconds": round(time.monotonic() - start, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
    }
    return Chosen(windows, heldout, {"selection": facts})
