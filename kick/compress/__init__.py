"""Compression: a recipe of registered methods, applied to a model in place.

    step = canonical("wanda", {"sparsity": 0.5})
    check(model, [step])                                # before calibration data is loaded
    report = compress(model, [step], sequences)         # JSON values for run.json

Every file of methods/ is imported here, so that its method is in the table.
"""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import kick.compress.methods as _package
from kick.compress.context import Calibration, Propagate
from kick.compress.method import Entry, build, canonical, describe, method, methods, option
from kick.model.footprint import VALUE_BITS, Storage, footprint
from kick.model.structure import block_list, linears
from kick.records import KickError, Step

for _module in pkgutil.iter_modules(_package.__path__):
    importlib.import_module(f"{_package.__name__}.{_module.name}")

__all__ = [
    "Calibration",
    "Entry",
    "build",
    "canonical",
    "check",
    "compress",
    "describe",
    "method",
    "methods",
    "needs_calibration",
    "option",
]


def needs_calibration(recipe: Sequence[Step]) -> bool:
    """Whether any step of a recipe looks at calibration data."""
    return any(methods[step.method].calibrated for step in recipe)


def check(model: nn.Module, recipe: Sequence[Step]) -> None:
    """Raises KickError where a step cannot serve this model: group sizes, patterns, structures."""
    for step in recipe:
        made = build(step)
        if hasattr(made, "check"):
            made.check(model)


def compress(
    model: nn.Module,
    recipe: Sequence[Step],
    calibration: Sequence[Tensor],
    *,
    propagate: Propagate = "compressed",
    seed: int = 0,
    offload: Path | None = None,
    memory: Path | None = None,
) -> dict[str, Any]:
    """Apply a recipe to a model in place.

    Args:
        calibration: token sequences (1, length); may be empty where no step needs them. A `Calibration` is
        used
            as it is, and holds masks and formats afterwards, for saving.
        propagate: "compressed" feeds each block what the compressed blocks before it give, "dense" what the
            model's blocks gave before this step.
        seed: of torch's random numbers while methods run.
        offload: a folder for hidden states, which are else kept in memory.
        memory: a folder for statistics of the dense model, named by the caller after model and sequences;
        read
            and written by the first step with propagate "dense".

    Returns:
        JSON values: steps (method, options, version, seconds, zeros after it), notes, footprint, propagate.

    Raises:
        KickError: a step cannot serve the model or lacks calibration. CellFailed: NaN, not positive definite.
    """
    if not isinstance(calibration, Calibration):
        calibration = Calibration(tuple(calibration), propagate, offload, memory)
    if needs_calibration(recipe) and not len(calibration):
        names = ", ".join(step.method for step in recipe if methods[step.method].calibrated)
        raise KickError(f"{names} needs calibration sequences; got none")
    check(model, recipe)
    steps = []
    for number, step in enumerate(recipe):
        start = time.monotonic()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            build(step)(model, calibration)
        if number:
            _settle(model, calibration)
        calibration.memory = None  # the next step does not start from the dense model
        seconds = round(time.monotonic() - start, 3)
        described = {"method": step.method, "options": dict(step.options), "version": step.version}
        steps.append(described | {"seconds": seconds} | _zeros(model))
    size = footprint(model, storages(calibration))
    return {"steps": steps, "propagate": propagate, "notes": list(calibration.notes), "footprint": size}


def storages(calibration: Calibration) -> dict[str, Storage]:
    """How each linear that a recipe changed could be stored, by full name."""
    made = {}
    for name in {**calibration.masks, **calibration.formats}:
        stored = calibration.formats.get(name)
        n, m = calibration.patterns.get(name, (0, 0))
        made[name] = Storage(stored.bits if stored else VALUE_BITS, n, m)
    return made


def _settle(model: nn.Module, calibration: Calibration) -> None:
    """After a later step: earlier masks hold, and weights that left their grid are not said to be on it."""
    path, modules = block_list(model)
    for index, block in enumerate(modules):
        for linear in linears(block):
            name = f"{path}.{index}.{linear.name}"
            kept = calibration.kept(name, linear.weight)
            if kept is not None:
                linear.weight.mul_(kept)
            stored = calibration.formats.get(name)
            if stored is None or stored.grid is None:
                continue
            rounded = stored.grid.round(linear.weight, stored.scale).to(linear.weight.dtype)
            if not torch.equal(rounded, linear.weight):
                del calibration.formats[name]
                calibration.note("no longer on its grid", linear=name)


def _zeros(model: nn.Module) -> dict[str, Any]:
    """The share of zeros over all matrices of the blocks, and how many there are."""
    weights = zeros = 0
    for block in block_list(model)[1]:
        for linear in linears(block):
            weights += linear.weight.numel()
            zeros += linear.weight.numel() - int(torch.count_nonzero(linear.weight))
    return {"zeros": zeros, "weights": weights, "sparsity": zeros / weights}
