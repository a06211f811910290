"""A compressed model as a folder that transformers loads with no code of ours.

    context = Calibration(tuple(sequences))
    report = compress(model, recipe, context)
    manifest = save(model, tokenizer, context, report, out)

Weights on one integer grid are stored in compressed-tensors' packed format, their scales in half precision
(`scale_type`). Pruned ones are dense safetensors, their masks in kick/masks.safetensors; smaller models have
a config that fits. kick/manifest.json says what was done. The folder appears under its name only after it was
loaded again and gave the same logits.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerBase

from kick.compress.context import Calibration, Quantized
from kick.compress.dense import SIDES, DenseWeights, merge_branch
from kick.compress.grid import Grid
from kick.compress.packing import packed, quantization_config, rounded, scale_type
from kick.errors import CellFailed, KickError
from kick.model import blocks, linears, named_linears
from kick.model.source import quiet
from kick.store.processes import left_by_dead, mark

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

MERGED = "dense, side branches merged into the weights"
PACKED = "compressed-tensors pack-quantized"
DEQUANTIZED = "dense, quantized weights stored dequantized"
RUNNING = (
    "a model that rounds its activations while it runs is not a plain checkpoint: transformers would run it "
    "with full activations; evaluate it with `kick run`, or save a weight-only method"
)
_APART = {"footprint": "footprint_with_branches_apart"}  # a merged checkpoint is larger than that
TOLERANCE = 1e-3  # of the largest logit


def save(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    calibration: Calibration,
    report: Mapping[str, Any],
    out: Path,
    *,
    dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """Write a compressed model to the folder `out`, load it again, and compare logits.

    Weights are rounded in place to what is stored, so that the model afterwards is the one in the folder.

    Args:
        calibration: the one that `compress` was called with: it holds masks and formats.
        report: what `compress` returned.
        dtype: what weights and the scales of packed ones are stored in; None: as they are, scales in half
            precision (`scale_type`).

    Returns:
        The manifest: format, recipe, footprint, bytes of each file, the largest difference of logits.

    Raises:
        KickError: `out` is there already, or the result cannot be a plain checkpoint.
        CellFailed: the checkpoint does not give the model's logits.
    """
    check_out(out)
    if any(stored.activation_bits for stored in calibration.formats.values()):
        raise KickError(RUNNING)
    with (
        _written(out, model.config),
        tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-{mark(os.getpid())}-") as scratch,
        quiet(),
    ):
        folder = Path(scratch) / "checkpoint"
        matrices = _rounded(model, calibration, dtype)
        with _generation_apart(model, folder):
            kind = _write(model, calibration, folder, matrices)
        tokenizer.save_pretrained(folder)
        scales = {"scales": _scales_of(matrices)} if matrices else {}
        manifest = {"format": kind, **_stored(report, kind), **scales}
        manifest["logit_difference"] = _difference(model, folder)
        manifest["bytes"] = {file.name: file.stat().st_size for file in sorted(folder.glob("*.safetensors"))}
        masks = {} if kind == MERGED else calibration.masks  # merged branches fill what was pruned
        _write_facts(folder / "kick", manifest, masks)
        if out.exists():
            out.rmdir()
        folder.rename(out)
    return manifest


@contextmanager
def _generation_apart(model: nn.Module, folder: Path) -> Iterator[None]:
    """Within it the model has the default generation config; its own is written as it is afterwards.

    transformers refuses to save some that it loads: Vicuna's has a temperature without do_sample.
    """
    own = getattr(model, "generation_config", None)
    if own is None:
        yield
        return
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
    own.to_json_file(folder / "generation_config.json", use_diff=True)


def check_out(out: Path) -> None:
    """Raises KickError if a checkpoint cannot become the folder `out`: it is there, or nothing can be.

    What killed commands left beside it is removed.
    """
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise KickError(f"{out} is there already; give a folder that is new or empty")
        out.parent.mkdir(parents=True, exist_ok=True)
        _clear(out)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-{mark(os.getpid())}-"):
            pass
    except OSError as error:
        raise KickError(f"{out} cannot be written: {error}; give a folder that can be made") from error


def _clear(out: Path) -> None:
    """Remove the hidden folders beside `out` of commands for it that were killed: their process is gone."""
    for folder in out.parent.glob(f".{glob.escape(out.name)}-*"):
        owner = re.fullmatch(rf"\.{re.escape(out.name)}-([0-9a-f]{{6}}-\d+)-\w+", folder.name)
        if owner and left_by_dead(owner[1]):
            with suppress(FileNotFoundError):  # another command is clearing it
                shutil.rmtree(folder)


@contextmanager
def _written(out: Path, config: PretrainedConfig) -> Iterator[None]:
    """Within it an error of the disk is a known failure, and a config that has no place for the model."""
    try:
        yield
    except StrictDataclassError as error:
        raise CellFailed(f"{type(config).__name__} does not describe this model: {error}") from error
    except (OSError, SafetensorError) as error:
        raise CellFailed(f"{out} could not be written, nothing is left of it: {error}") from error


def _rounded(model: nn.Module, calibration: Calibration, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Round the model to what is stored; the packed matrices, none if weights are stored as such.

    Weights on a grid become what its rounded scales say; `calibration.formats` has these afterwards. Codes
    are those of the weights before: 8 bits cannot be told from weights of bfloat16.
    """
    before = next(model.parameters()).dtype
    own, grid = dtype or before, one_grid(model, calibration.formats)
    scales = own if grid is None else scale_type(own, dtype)
    changed = not own == scales == before
    matrices: dict[str, Tensor] = {}
    for name, linear in _all(model).items():
        stored = calibration.formats.get(name)
        if stored is None or stored.grid is None or (grid is None and not changed):
            continue
        on, scale = stored.on_grid()
        codes = on.quantize(linear.weight, scale)
        if grid is not None:
            matrices |= packed(name, codes, stored, scales)
        if changed:
            coarse = rounded(name, scale, scales)
            linear.put(on.dequantize(codes, coarse))
            calibration.formats[name] = replace(stored, scale=coarse)
    if changed:
        for parameter in model.parameters():
            parameter.data = parameter.data.to(own)
    return matrices


def _scales_of(matrices: Mapping[str, Tensor]) -> str:
    (found,) = {one.dtype for name, one in matrices.items() if name.endswith(".weight_scale")}
    return str(found).removeprefix("torch.")


def _write(
    model: PreTrainedModel, calibration: Calibration, folder: Path, matrices: dict[str, Tensor]
) -> str:
    """Write weights and config; the format's name."""
    grid = one_grid(model, calibration.formats)
    if grid is not None:
        _write_packed(model, matrices, grid, folder)
        return PACKED
    if any(hasattr(module, "side_down") for module in model.modules()):
        with _merged(model, folder.parent):
            model.save_pretrained(folder, state_dict=_without_branches(model))
        return MERGED
    model.save_pretrained(folder)
    if calibration.formats:
        return DEQUANTIZED
    return "dense"


def _all(model: nn.Module) -> dict[str, Any]:
    """Every linear by its full name."""
    return {name: linear for name, _, linear in named_linears(model)}


def one_grid(model: nn.Module, formats: Mapping[str, Quantized]) -> Grid | None:
    """The grid that every matrix is on, if all are nn.Linear and on the same one."""
    found = _all(model)
    grids = {formats[name].grid if name in formats else None for name in found}
    plain = all(type(linear.module) is nn.Linear and linear.called for linear in found.values())
    branches = any(hasattr(module, "side_down") for module in model.modules())
    return grids.pop() if plain and len(grids) == 1 and not branches else None


def _write_packed(model: PreTrainedModel, matrices: dict[str, Tensor], grid: Grid, folder: Path) -> None:
    tensors, found = dict(matrices), _all(model)
    written: set[int] = set()
    for name, tensor in model.state_dict().items():
        if name.removesuffix(".weight") in found or tensor.data_ptr() in written:
            continue  # packed above, or tied to one that is written
        written.add(tensor.data_ptr())
        tensors[name] = tensor
    folder.mkdir()
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict() | {"quantization_config": quantization_config(model, grid)}
    config["architectures"] = [type(model).__name__]
    (folder / "config.json").write_text(json.dumps(config, indent=2, default=str) + "\n")


@contextmanager
def _merged(model: nn.Module, folder: Path) -> Iterator[None]:
    """Within it side branches are added into their weights; what those were waits on disk, in `folder`."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        before = DenseWeights(Path(scratch))
        before.keep(model)
        try:
            for linear in _all(model).values():
                merged = merge_branch(linear.module, linear.weight) if linear.called else None
                if merged is not None:
                    linear.weight.copy_(merged)
            yield
        finally:
            for index, block in enumerate(blocks(model)):
                known = before.of(index)
                for linear in linears(block):
                    linear.weight.copy_(known[linear.name])


def _without_branches(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if not name.endswith(SIDES)}


def _stored(report: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """A report as it is true of the checkpoint: what was measured is the weight with its branch beside it."""
    return {_APART.get(name, name) if kind == MERGED else name: facts for name, facts in report.items()}


def _write_facts(folder: Path, manifest: Mapping[str, Any], masks: Mapping[str, Tensor]) -> None:
    """Write the manifest, and the masks if there are any."""
    folder.mkdir()
    if masks:
        _write_masks(masks, folder / "masks.safetensors")
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def _write_masks(masks: Mapping[str, Tensor], file: Path) -> None:
    """Each mask as bits, (out, ceil(in / 8)) uint8, the first input in the high bit; 1 = kept."""
    bits = {name: np.packbits(kept.cpu().numpy(), axis=1) for name, kept in masks.items()}
    save_file({name: torch.from_numpy(np.ascontiguousarray(part)) for name, part in bits.items()}, file)


@torch.no_grad()
def _difference(model: PreTrainedModel, folder: Path) -> float:
    """The largest difference of logits between the model and what is loaded from its folder."""
    dtype = next(model.parameters()).dtype
    try:
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True).eval()
    except RuntimeError as error:  # such as tensors of other shapes
        raise CellFailed(
            f"transformers cannot load the checkpoint by its config ({error}); it was not kept"
        ) from error
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.vocab_size, (1, 32), generator=generator)
    wanted = model(ids.to(model.device)).logits.float().cpu()
    difference = float((loaded(ids).logits.float() - wanted).abs().max())
    if not difference <= TOLERANCE * float(wanted.abs().max()):
        raise CellFailed(
            f"the checkpoint, loaded again, gives logits that differ by {difference:g}; it was not kept"
        )
    return difference
