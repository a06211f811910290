"""What became of a model's matrices, taken down block by block while their weights are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from kick import compress
from kick.compress.checkpoint import DEQUANTIZED, PACKED
from kick.compress.context import Calibration
from kick.compress.grid import Grid
from kick.compress.method import methods
from kick.compress.packing import scale_type
from kick.compress.written import packed_size
from kick.model import Linear, counting
from kick.model.footprint import VALUE_BITS, Storage, distinct, footprint
from kick.model.structure import named_linears
from kick.records import Step


class Tally:
    """Facts of every matrix of a model that is never there whole.

    known: by full name JSON values: weights, zeros, pruned ones, how it could be stored, its grid if
    compressed-tensors has a place for it.
    """

    def __init__(self, model: nn.Module, known: dict[str, dict[str, Any]] | None = None):
        self.model = model
        self.known: dict[str, dict[str, Any]] = {} if known is None else known

    def add(self, path: str, found: Sequence[Linear], calibration: Calibration) -> None:
        """Take down a block's matrices as they are now."""
        storages = compress.storages(calibration)
        for linear in found:
            name, weight = f"{path}.{linear.name}", linear.weight
            kept, stored = calibration.masks.get(name), calibration.formats.get(name)
            self.known[name] = {
                "weights": weight.numel(),
                "zeros": counting.zeros(weight),
                "pruned": 0 if kept is None else counting.zeros(kept),
                "storage": asdict(storages[name]) if name in storages else None,
                "grid": asdict(stored.grid) if stored and stored.grid and packable(linear) else None,
            }

    def footprint(self) -> dict[str, Any]:
        """The model's footprint, as `kick.model.footprint` gives it."""
        storages = {name: Storage(**one["storage"]) for name, one in self.known.items() if one["storage"]}
        return footprint(self.model, storages, {name: one["zeros"] for name, one in self.known.items()})

    def done(self, step: Step, seconds: float) -> dict[str, Any]:
        """What a step did, as `compress.compress` says it."""
        pruned, weights = (sum(one[name] for one in self.known.values()) for name in ("pruned", "weights"))
        facts = {"method": step.method, "options": dict(step.options), "version": step.version}
        facts |= methods[step.method].record(step.options)
        facts |= {"seconds": round(seconds, 3)}
        facts |= {"pruned": pruned, "weights": weights, "sparsity": pruned / weights}
        return facts | {"bytes": self.footprint()["packed_bytes"]}

    @property
    def kind(self) -> str:
        """What dense weights of the model are: as they were, or put back from a quantized format."""
        quantized = (one["storage"] and one["storage"]["bits"] != VALUE_BITS for one in self.known.values())
        return DEQUANTIZED if any(quantized) else "dense"

    def shipped(
        self, value: Callable[[str], torch.dtype], asked: torch.dtype | None = None
    ) -> dict[str, Any]:
        """`shipped_bytes` and `shipped_as` as `kick.compress.written` counts them; `value` gives the type of
        each tensor by its name, `asked` is the one that was asked for, if any."""
        tensors = dict(distinct(self.model))
        grids = [one["grid"] for one in self.known.values()]
        size, kind = 0, self.kind
        if grids[0] is not None and all(one == grids[0] for one in grids):
            grid = Grid(**grids[0])
            kind = f"{PACKED}, {grid.bits} bits"
            for name, _, linear in named_linears(self.model):
                scales = scale_type(value(f"{name}.weight"), asked)
                size += packed_size(linear.weight, grid, scales.itemsize)
                tensors.pop(f"{name}.weight")
        size += sum(one.numel() * value(name).itemsize for name, one in tensors.items())
        return {"shipped_bytes": size, "shipped_as": kind}


def packable(linear: Linear) -> bool:
    """Whether compressed-tensors has a place for the matrix."""
    return type(linear.module) is nn.Linear and linear.called
