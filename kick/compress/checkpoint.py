"""A compressed model as a folder that transformers loads with no code of ours.

    context = Calibration(tuple(sequences))
    report = compress(model, recipe, context)
    manifest = save(model, tokenizer, context, report, out)

Weights on one integer grid are stored in compressed-tensors' packed format. Pruned ones are dense
safetensors, their masks in kick/masks.safetensors; smaller models have a config that fits.
kick/manifest.json says what was done. The folder appears under its name only after it was loaded again and
gave the same logits.
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
from kick.compress.dense import DenseWeights, merge_branch
from kick.compress.grid import Grid, Scale
from kick.errors import CellFailed, KickError
from kick.model import block_list, blocks, linears, named_linears
from kick.model.source import quiet
from kick.store.processes import left_by_dead, mark

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
) -> dict[str, Any]:
    """Write a compressed model to the folder `out`, load it again, and compare logits.

    Args:
        calibration: the one that `compress` was called with: it holds masks and formats.
        report: what `compress` returned.

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
        _written(out),
        tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-{mark(os.getpid())}-") as scratch,
        quiet(),
    ):
        folder = Path(scratch) / "checkpoint"
        try:
            with _generation_apart(model, folder):
                kind = _write(model, calibration, folder)
        except StrictDataclassError as error:
            raise CellFailed(
                f"{type(model.config).__name__} does not describe this model: {error}"
            ) from error
        tokenizer.save_pretrained(folder)
        if kind == MERGED:  # what was measured is the weight with its branch beside it
            report = {_APART.get(name, name): facts for name, facts in report.items()}
        manifest = {"format": kind, **report, "logit_difference": _difference(model, folder)}
        manifest["bytes"] = {file.name: file.stat().st_size for file in sorted(folder.glob("*.safetensors"))}
        (folder / "kick").mkdir()
        if calibration.masks and kind != MERGED:  # merged branches fill what was pruned
            _write_masks(calibration.masks, folder / "kick" / "masks.safetensors")
        (folder / "kick" / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
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
def _written(out: Path) -> Iterator[None]:
    """Within it an error of the disk is a known failure."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CellFailed(f"{out} could not be written, nothing is left of it: {error}") from error


def _write(model: PreTrainedModel, calibration: Calibration, folder: Path) -> str:
    """Write weights and config; the format's name."""
    grid = one_grid(model, calibration.formats)
    if grid is not None:
        _write_packed(model, calibration.formats, grid, folder)
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


def _write_packed(model: PreTrainedModel, formats: Mapping[str, Quantized], grid: Grid, folder: Path) -> None:
    tensors: dict[str, Tensor] = {}
    found = _all(model)
    for name, linear in found.items():
        tensors |= packed(name, linear.weight, formats[name], linear.weight.dtype)
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


def packed(name: str, weight: Tensor, stored: Quantized, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of compressed-tensors' packed format for a matrix that is on a grid, scales in `dtype`."""
    from compressed_tensors.compressors.pack_quantized import pack_to_int32

    grid, scale = stored.on_grid()
    half = 2 ** (grid.bits - 1)  # codes are signed there
    codes = grid.quantize(weight, scale) - half
    tensors = {
        f"{name}.weight_packed": pack_to_int32(codes.to(torch.int8), grid.bits),
        f"{name}.weight_scale": scale.scale.to(dtype),
        f"{name}.weight_shape": torch.tensor(weight.shape),
    }
    if not grid.symmetric:
        zeros = (scale.zero - half).to(torch.int8)
        tensors[f"{name}.weight_zero_point"] = pack_to_int32(zeros, grid.bits, packed_dim=0)
    return tensors


def quantization_config(model: nn.Module, grid: Grid) -> dict[str, Any]:
    """What compressed-tensors reads; everything outside the blocks is left as it is."""
    path = block_list(model)[0]
    outside = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(f"{path}.")
    ]
    weights = {
        "num_bits": grid.bits,
        "type": "int",
        "symmetric": grid.symmetric,
        "strategy": "channel" if grid.group_size == -1 else "group",
        "group_size": None if grid.group_size == -1 else grid.group_size,
        "dynamic": False,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": outside,
    }


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
    sides = (".side_down", ".side_up")
    return {name: value for name, value in model.state_dict().items() if not name.endswith(sides)}


def round_to(model: nn.Module, calibration: Calibration, dtype: torch.dtype) -> None:
    """Give a model's weights another type, in place: those on a grid as their rounded scales say."""
    if dtype == next(model.parameters()).dtype:
        return
    for name, linear in _all(model).items():
        stored = calibration.formats.get(name)
        if stored is not None and stored.grid is not None:
            grid, scale = stored.on_grid()
            rounded = Scale(scale.scale.to(dtype).float(), scale.zero)
            linear.put(grid.dequantize(grid.quantize(linear.weight, scale), rounded))
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def _write_masks(masks: Mapping[str, Tensor], file: Path) -> None:
    """Each mask as bits, (out, ceil(in / 8)) uint8, the first input in the high bit; 1 = kept."""
    bits = {name: np.packbits(kept.cpu().numpy(), axis=1) for name, kept in masks.items()}
    save_file({name: torch.from_numpy(np.ascontiguousarray(part)) for name, part in bits.items()}, file)


@torch.no_grad()
def _difference(model: PreTrainedModel, folder: Path) -> float:
    """The largest difference of logits between the model and what is loaded from its folder."""
    dtype = next(model.parameters()).dtype
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True).eval()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.vocab_size, (1, 32), generator=generator)
    wanted = model(ids.to(model.device)).logits.float().cpu()
    difference = float((loaded(ids).logits.float() - wanted).abs().max())
    if not difference <= TOLERANCE * float(wanted.abs().max()):
        raise CellFailed(
            f"the checkpoint, loaded again, gives logits that differ by {difference:g}; it was not kept"
        )
    return difference
