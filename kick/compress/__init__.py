"""Compression: a recipe of registered methods, applied to a model in place.

    step = canonical("wanda", {"sparsity": 0.5})
    check(model, [step])                                # before calibration data is loaded
    report = compress(model, [step], sequences)         # JSON values for run.json

Every file of the packages that `kick.catalog` names is imported here, so that its method is in the table.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kick.catalog import PACKAGES, retokenises
from kick.compress import twin
from kick.compress.calibrate.corpus import check_positions
from kick.compress.context import Calibration, Passes, Propagate, Quantized
from kick.compress.cost import stopwatch
from kick.compress.dense import SIDES, DenseWeights
from kick.compress.depth import check_depth
from kick.compress.method import build, canonical, describe, describe_all, option
from kick.compress.method import methods as _methods
from kick.compress.pruning import clear
from kick.compress.scope import Scope
from kick.compress.written import written
from kick.errors import KickError
from kick.model import counting
from kick.model.footprint import VALUE_BITS, Storage, footprint
from kick.model.shipped import as_loaded
from kick.model.structure import Linear, block_list, blocks, linears
from kick.records import Step
from kick.registry import import_files

for _package in PACKAGES:  # by name: forms of recovery are on a floor above
    import_files(import_module(_package))

__all__ = [
    "Calibration",
    "build",
    "canonical",
    "check",
    "check_saved",
    "compress",
    "describe",
    "describe_all",
    "needs_calibration",
    "option",
]


def needs_calibration(recipe: Sequence[Step]) -> bool:
    """Whether any step of a recipe looks at calibration data."""
    return any(calibrated(step) for step in recipe)


def calibrated(step: Step) -> bool:
    """Whether a step looks at calibration data."""
    return "calibration" in _methods[step.method].needed(step.options)


def check(model: nn.Module, recipe: Sequence[Step]) -> None:
    """Raises KickError if a step cannot serve this model, or not in this order."""
    kinds = [_methods[step.method].kind for step in recipe]
    check_depth(model, sum(step.options.get("layers", 0) for step in recipe))
    for number, step in enumerate(recipe):
        if kinds[number] == "structure" and set(kinds[:number]) - {"structure"}:
            raise KickError(
                f"{step.method} makes the model smaller and must come before {recipe[number - 1].method}"
            )
        _check_recovery(recipe, kinds, number)
        if "compensate" in kinds[:number]:
            raise KickError(f"{step.method} would change weights after their compensation; put it before")
        made, facts = build(step), _methods[step.method]
        if facts.trains and any(map(retokenises, recipe[:number])):
            raise KickError(f"{step.method} trains on text, which a step before it cuts into other tokens")
        if number < len(recipe) - 1 and facts.last:
            raise KickError(f"{step.method} must be the last step: {facts.last}")
        if facts.rotates and set(kinds[:number]) - {"structure"}:
            raise KickError(
                f"{step.method} rotates all weights: it must come before {recipe[number - 1].method}"
            )
        if hasattr(made, "check"):
            made.check(model)
        Scope.of(step).check(model)
    if kinds and kinds[0] == "compensate":
        raise KickError(f"{recipe[0].method} makes up for earlier steps: put it after another method")
    if "structure" in kinds and "compensate" in kinds:
        raise KickError("a compensation needs the dense weights in place; not after structured pruning")
    twin.check_runs(model, [build(step) for step in recipe])


def _check_recovery(recipe: Sequence[Step], kinds: Sequence[str], number: int) -> None:
    """Raises KickError if a step trains after one that rounds, or prunes after one that trains."""
    here, earlier = recipe[number].method, kinds[:number]
    if kinds[number] == "recover":
        for step, kind in zip(recipe[:number], earlier, strict=True):
            if kind in ("quantize", "compensate", "recover"):
                raise KickError(f"{here} must come after pruning and before {step.method}; one per recipe")
        build(recipe[number]).follows(recipe[:number])
    elif "recover" in earlier and kinds[number] == "compensate":
        trained = recipe[earlier.index("recover")]
        if build(trained).branches():
            raise KickError(f"{here} adds side branches, and {trained.method} leaves its own")
    elif "recover" in earlier and kinds[number] == "prune":  # structures come first anyway
        raise KickError(f"{here} prunes: it must come before {recipe[earlier.index('recover')].method}")


def check_saved(model: nn.Module, recipe: Sequence[Step]) -> None:
    """Raises KickError if what the recipe makes of the model cannot be saved: an empty twin is tried."""
    made = [build(step) for step in recipe]
    for one in made:
        if hasattr(one, "check_saved"):
            one.check_saved(model)
    try:
        twin.check_saved(model, made)
    except KickError as error:
        adding = [step.method for step in recipe if step.options.get("bias") is True]
        raise KickError(f"{error}; or {adding[0]} with `bias: false`" if adding else str(error)) from error


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
        calibration: token sequences (1, length); may be empty if no step needs them. A `Calibration` is
            used as it is, and holds masks and formats afterwards, for saving.
        propagate: "compressed" feeds each block what the compressed blocks before it give, "dense" what the
            model's blocks gave before this step.
        seed: of torch's random numbers while methods run.
        offload: a folder for hidden states and sums of gradients, which are else kept in memory.
        memory: a folder for statistics of the dense model, named by the caller after model and sequences;
            read and written by the first step with propagate "dense".

    Returns:
        JSON values: steps (method, options, version, what `Facts.record` says of the method, bytes as packed,
        seconds, cpu_seconds, peak_memory, pruned, weights, sparsity; perhaps `removed` and `passes`), notes,
        propagate, footprint: with `shipped_bytes` of what `kick compress` writes, or None, and `shipped_as`.

    Raises:
        KickError: a step cannot serve the model or lacks calibration. CellFailed: NaN, not positive definite.
    """
    if not isinstance(calibration, Calibration):
        calibration = Calibration(tuple(calibration), propagate, offload, memory)
    if needs_calibration(recipe) and not len(calibration):
        names = ", ".join(step.method for step in recipe if calibrated(step))
        raise KickError(f"{names} needs calibration sequences; got none")
    check_positions(model.config, max((one.shape[-1] for one in calibration), default=0))
    check(model, recipe)
    unsaved = _unsaved(model, recipe)
    with _dense_weights(model, recipe, calibration), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        steps, size = [], {}
        for number, step in enumerate(recipe):
            done = _apply(model, step, calibration, later=bool(number))
            size = footprint(model, storages(calibration))
            steps.append(done | {"bytes": size["packed_bytes"]})
    facts = {"propagate": calibration.propagate, "notes": list(calibration.notes)}
    if not recipe:
        return {"steps": [], **facts, "footprint": footprint(model, {}) | as_loaded(model)}
    shipped = {"shipped_bytes": None, "shipped_as": unsaved} if unsaved else written(model, calibration)
    return {"steps": steps, **facts, "footprint": size | shipped}


def _unsaved(model: nn.Module, recipe: Sequence[Step]) -> str:
    """Why `kick compress` would write no checkpoint of what the recipe makes of the model; "" if it would."""
    if any(_methods[step.method].activations for step in recipe):
        return "no plain checkpoint: activations are rounded as it runs"
    try:
        check_saved(model, recipe)
    except KickError as error:
        return f"no plain checkpoint: {error}"
    return ""


def _apply(model: nn.Module, step: Step, calibration: Calibration, later: bool) -> dict[str, Any]:
    """Carry out a step; what it did, as JSON values."""
    took = stopwatch(model)
    calibration.scope = Scope.of(step)
    made = build(step)
    if later and hasattr(made, "check"):
        made.check(model)  # an earlier step may have made it smaller
    calibration.passes, layers = Passes(), len(blocks(model))
    pruned, whole = set(calibration.masks), _held(model)
    with _snapshot(model, calibration) as before:
        made(model, calibration)
        calibration.scope.check_followed(step.method, calibration.masks, pruned)
        if later:
            _settle(model, calibration, before)
    calibration.memory = None  # a later step does not start from the dense model
    cost = took()
    facts = {"method": step.method, "options": dict(step.options), "version": step.version}
    facts |= _methods[step.method].record(step.options)
    if _methods[step.method].structured:
        gone = whole - _held(model)
        facts["removed"] = {"weights": gone, "of": whole, "share": gone / whole}
    if calibrated(step) and not _methods[step.method].blockwise:
        facts["passes"] = calibration.passes.facts(layers)
    facts |= calibration.trained()
    return facts | cost | _pruned(model, calibration)


@contextmanager
def _dense_weights(model: nn.Module, recipe: Sequence[Step], calibration: Calibration) -> Iterator[None]:
    """The dense weights on disk while a recipe that compares with them is carried out."""
    if not any(_compares(step) for step in recipe[1:]):
        yield
        return
    with tempfile.TemporaryDirectory(dir=calibration.offload) as folder:
        calibration.dense = DenseWeights(Path(folder))
        calibration.dense.keep(model)
        try:
            yield
        finally:
            calibration.dense = None


def _compares(step: Step) -> bool:
    """Whether a step needs the dense weights: it compensates, or trains towards what they give."""
    entry = _methods[step.method]
    return entry.kind == "compensate" or bool(getattr(entry.cls, "dense", False))


def storages(calibration: Calibration) -> dict[str, Storage]:
    """How each linear that a recipe changed could be stored, by full name."""
    made = {}
    for name in {**calibration.masks, **calibration.formats}:
        stored = calibration.formats.get(name)
        n, m = calibration.patterns.get(name, (0, 0))
        bits, shared, zero = (stored.bits, stored.shared, stored.zero) if stored else (VALUE_BITS, 0.0, True)
        made[name] = Storage(bits, shared, n, m, zero)
    return made


@contextmanager
def _snapshot(
    model: nn.Module, calibration: Calibration
) -> Iterator[tuple[DenseWeights, dict[str, Quantized]]]:
    """The weights on disk while a step is carried out, and which of them have a format that is not a grid."""
    formats = {name: stored for name, stored in calibration.formats.items() if stored.grid is None}
    with tempfile.TemporaryDirectory(dir=calibration.offload) as folder:
        weights = DenseWeights(Path(folder))
        if formats:
            weights.keep(model)
        yield weights, formats


def _settle(
    model: nn.Module, calibration: Calibration, before: tuple[DenseWeights, dict[str, Quantized]]
) -> None:
    """After a later step: earlier masks hold, and weights that left their format are not said to have it.

    On a grid is what its scales round to itself; in another format what is as it was, or zero.
    """
    path, modules = block_list(model)
    weights, formats = before
    for index, block in enumerate(modules):
        known = weights.of(index) if formats else {}
        settle(f"{path}.{index}", linears(block), calibration, formats, known)


def settle(
    block: str,
    matrices: Sequence[Linear],
    calibration: Calibration,
    formats: Mapping[str, Quantized],
    known: Mapping[str, Tensor],
) -> None:
    """Settle one block's matrices after a later step.

    formats: those that are not a grid, by full name, before the step; known: the weights of that time, by the
    matrix's name in the block.
    """
    for linear in matrices:
        name = f"{block}.{linear.name}"
        kept = calibration.kept(name, linear.weight)
        if kept is not None:
            clear(linear.weight, kept)
        stored = calibration.formats.get(name)
        if stored is None:
            continue
        weight = linear.weight
        if stored.grid is not None:
            grid, scale = stored.on_grid()
            same = grid.round(weight, scale).to(weight.dtype) == weight
        elif formats.get(name) is stored:
            same = (known[linear.name].to(weight.device) == weight) | (weight == 0)
        else:  # this step put it there
            continue
        if not same.all():
            del calibration.formats[name]
            calibration.note("no longer in its format", linear=name)


def _weights(model: nn.Module) -> int:
    """How many weights the blocks' matrices have."""
    return sum(linear.weight.numel() for block in blocks(model) for linear in linears(block))


def _held(model: nn.Module) -> int:
    """How many weights the blocks' matrices and side branches have; those that blocks share count once."""
    distinct: dict[int, int] = {}
    for block in blocks(model):
        sides = [tensor for name, tensor in block.named_buffers() if name.endswith(SIDES)]
        for tensor in [linear.weight for linear in linears(block)] + sides:
            distinct[tensor.data_ptr()] = tensor.numel()
    return sum(distinct.values())


def _pruned(model: nn.Module, calibration: Calibration) -> dict[str, Any]:
    """How many weights of the blocks' matrices are pruned by now, of how many, and that share."""
    weights = _weights(model)
    pruned = sum(counting.zeros(kept) for kept in calibration.masks.values())
    return {"pruned": pruned, "weights": weights, "sparsity": pruned / weights}
