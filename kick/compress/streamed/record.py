"""Files of a work folder: a block between two steps of a recipe, and the states of a walk at a block."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kick.compress.context import Calibration, Quantized
from kick.compress.grid import Grid, Scale
from kick.model.stored import TensorFile, header, header_room


def write(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file of these tensors, whole or not there."""
    beside = file.with_suffix(".new")
    made = TensorFile(beside, header_room(tensors))
    for name, tensor in tensors.items():
        made.add(name, tensor)
    made.seal()
    os.replace(beside, file)


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of such a file."""
    return {name: one.read() for name, one in header(file).items()}


def bits(kept: Tensor) -> Tensor:
    """A mask as bits, (out, ceil(in / 8)) uint8, the first input in the high bit; 1 = kept."""
    return torch.from_numpy(np.packbits(kept.cpu().numpy(), axis=1))


def mask(packed: Tensor, columns: int) -> Tensor:
    """A mask (out, in) from its bits."""
    return torch.from_numpy(np.unpackbits(packed.numpy(), axis=1, count=columns)).bool()


class MaskBits(dict[str, Tensor]):
    """Masks by name, kept as bits: as bytes those of all experts of a block are as large as one expert."""

    def __setitem__(self, name: str, kept: Tensor) -> None:
        super().__setitem__(name, (bits(kept), kept.shape[1]))  # type: ignore[assignment]

    def __getitem__(self, name: str) -> Tensor:
        return mask(*super().__getitem__(name))

    def get(self, name: str, default: Any = None) -> Any:
        """The mask of that name, else the default."""
        try:
            return self[name]
        except KeyError:
            return default

    def items(self) -> Any:
        """Names and masks, each made as it is asked for."""
        return ((name, self[name]) for name in self)


class BetweenSteps:
    """A folder of blocks as a step left them: weights, masks, patterns and formats."""

    def __init__(self, folder: Path):
        self.folder = folder

    def put(self, index: int, tensors: Mapping[str, Tensor], calibration: Calibration) -> None:
        """Keep a block's weights, and all that the calibration holds about its matrices."""
        self.folder.mkdir(parents=True, exist_ok=True)
        parts = {f"weight {name}": tensor for name, tensor in tensors.items()}
        formats = {}
        for name, kept in calibration.masks.items():
            parts[f"mask {name}"] = bits(kept)
        for name, stored in calibration.formats.items():
            formats[name] = _facts(stored)
            if stored.scale is not None:
                parts |= {f"scale {name}": stored.scale.scale, f"zero {name}": stored.scale.zero}
        widths = {name: kept.shape[1] for name, kept in calibration.masks.items()}
        facts = {"formats": formats, "patterns": calibration.patterns, "widths": widths}
        (self.folder / f"{index}.json").write_text(json.dumps(facts))
        write(self.folder / f"{index}.safetensors", parts)

    def get(self, index: int, calibration: Calibration) -> dict[str, Tensor]:
        """A block's weights by the model's names; the calibration holds what was kept about its matrices."""
        parts = read(self.folder / f"{index}.safetensors")
        facts = json.loads((self.folder / f"{index}.json").read_text())
        weights = {}
        for key, tensor in parts.items():
            kind, _, name = key.partition(" ")
            if kind == "weight":
                weights[name] = tensor
            elif kind == "mask":
                calibration.masks[name] = mask(tensor, facts["widths"][name])
        calibration.patterns |= {name: tuple(pattern) for name, pattern in facts["patterns"].items()}
        for name, one in facts["formats"].items():
            grid = None if one["grid"] is None else Grid(**one["grid"])
            scale = Scale(parts[f"scale {name}"], parts[f"zero {name}"]) if f"scale {name}" in parts else None
            calibration.formats[name] = Quantized(**one | {"grid": grid, "scale": scale})
        return weights


def _facts(stored: Quantized) -> dict[str, Any]:
    grid = None if stored.grid is None else asdict(stored.grid)
    names = ("name", "bits", "shared", "activation_bits", "zero")
    return {name: getattr(stored, name) for name in names} | {"grid": grid}
