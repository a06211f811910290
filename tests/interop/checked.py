"""What every checkpoint of another library must pass: right logits, the size of its file, a cell."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import kick
from kick.model import load, resolve
from kick.model.footprint import footprint
from kick.sweep.run import RunOptions

IDS = torch.arange(3, 67)[None]
WIDTHS = {
    "F64": 64,
    "I64": 64,
    "F32": 32,
    "I32": 32,
    "U32": 32,
    "F16": 16,
    "BF16": 16,
    "I16": 16,
    "I8": 8,
    "U8": 8,
}
WIDTHS |= {"F8_E4M3": 8, "F8_E8M0": 8, "BOOL": 8}


def file_bits(folder: Path, counted: Callable[[str, str], int | None] = lambda _name, _type: None) -> int:
    """Bits of the tensors of a checkpoint's projections.

    Args:
        counted: (name, type) -> bits of a value, where it is not the type's own; None for the type's own.
    """
    bits = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118
                if "_proj." in name and not name.endswith(".bias"):
                    piece = stored.get_slice(name)
                    width = counted(name, piece.get_dtype())
                    width = WIDTHS[piece.get_dtype()] if width is None else width
                    bits += width * math.prod(piece.get_shape())
    return bits


def check(
    folder: Path,
    right: Tensor | None,
    base: Path,
    bits: float | None = None,
    atol: float = 1e-4,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Load a folder with kick and hold it against the maker's own logits, its file's bytes and a run.

    Args:
        right: logits for IDS by the library that made it; None: only that they are numbers.
        base: the model before it was quantized.
        atol: share of the largest logit. dtype: in which the library computes, whatever was asked.
        bits: per weight of the blocks' matrices; counted from the file if absent.
    """
    load(resolve("smoke"))[1].save_pretrained(folder)
    model, _ = load(resolve(str(folder)))
    found = model(IDS).logits
    assert found.dtype == dtype
    assert found.isfinite().all()
    if right is not None:
        torch.testing.assert_close(
            found.float(), right.detach().float(), rtol=0, atol=atol * float(right.abs().max())
        )
    size, dense = footprint(model), footprint(load(resolve(str(base)))[0])
    assert size["linear_parameters"] == dense["linear_parameters"]
    assert size["parameters"] == dense["parameters"]
    bits = file_bits(folder) / size["linear_parameters"] if bits is None else bits
    assert size["bits_per_weight"] == pytest.approx(bits, rel=0.01)
    matrix = {
        "name": "cell", "model": str(folder), "tasks": ["kick_mini_mcq"], "limit": 2, "replicas": [],
        "variants": ["dense"],
    }  # fmt: skip
    ran = kick.run(matrix, out=folder.parent / "results", options=RunOptions(executor="inline"))
    assert (ran.done, ran.failed) == (1, 0), ran.failures()
