"""Costs of variants beside their scores: what `kick cost` measured, by the variant that it was measured of.

Columns of the frame (NaN or "" if nothing was measured):

    load_seconds        of a model as it is loaded; of dense and of checkpoints only
    run_memory          bytes at the peak while it answered
    prefill, decode     tokens per second at the shapes in `cost_of`; NaN of simulated quantization
    joules              per generated token without reading the prompt, where the device tells
    cost_of             engine, device and shapes in words
    simulated           whether it is quantized and would be measured on dequantized weights: it has no speed
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from kick.analysis.cells import StoredCell
from kick.analysis.rows import number
from kick.records import Cell, TaskSpec, Variant, key

NUMBERS = ("load_seconds", "run_memory", "prefill", "decode", "joules")
NOTHING: dict[str, Any] = {**dict.fromkeys(NUMBERS, math.nan), "cost_of": "", "simulated": False}


def identity(variant: Variant) -> str:
    """16 hex digits of what a variant is, whatever it is called."""
    return key(Cell(variant, TaskSpec("")).identity()["variant"])


def simulated(checkpoint: bool, bits: float) -> bool:
    """Whether a variant is quantized by kick, and so measured on dequantized weights; a checkpoint is not."""
    return math.isfinite(bits) and not checkpoint


def add(frame: pd.DataFrame, cells: Sequence[StoredCell]) -> pd.DataFrame:
    """The frame with the columns of costs, the newest record of each variant."""
    known: dict[int, dict[str, Mapping[str, Any]]] = {}
    found: dict[str, dict[str, Any]] = {}
    for cell in cells:
        if id(cell.store) not in known:
            records = sorted(cell.store.costs(), key=lambda one: str(one.get("time", "")))
            known[id(cell.store)] = {str(one.get("identity")): one for one in records}
        record = known[id(cell.store)].get(identity(cell.variant))
        found[cell.run.key] = _columns(record) | {
            "simulated": simulated(cell.variant.checkpoint, cell.traits["bits"])
        }
    columns = {name: frame["key"].map({key: one[name] for key, one in found.items()}) for name in NOTHING}
    return pd.concat([frame, pd.DataFrame(columns)], axis=1)  # at once: one by one they are in as many blocks


def _columns(record: Mapping[str, Any] | None) -> dict[str, Any]:
    if record is None:
        return dict(NOTHING)
    numbers = {name: record.get(name) for name in NUMBERS}
    shown = {
        name: number(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
        for name, value in numbers.items()
    }
    return {**shown, "cost_of": _words(record), "simulated": False}


def _words(record: Mapping[str, Any]) -> str:
    """ "packed on cpu (8 threads), prompts of 512 tokens, 64 generated, 1 at a time"."""
    parts = [str(record.get(name, "?")) for name in ("engine", "device", "prompt", "new", "batch")]
    return "{} on {}, prompts of {} tokens, {} generated, {} at a time".format(*parts)
