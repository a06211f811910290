"""A variant's model for the engine 'layered': never whole in memory, compressed block by block to disk.

The compressed weights are kept in float32, so that what is measured is what a worker that has the model in
memory measures. The folder goes when the job is done; of a job that was killed, the next one goes on with it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kick import paths
from kick.compress.method import methods
from kick.compress.streamed.compress import compress_checkpoint
from kick.engine.backend import LAYERED
from kick.errors import CellFailed
from kick.model.footprint import footprint
from kick.model.layered import Layered
from kick.model.shipped import as_loaded, note_origin
from kick.model.source import check_unchanged, files_of, locate, tokenizer_of
from kick.model.structure import linears
from kick.model.textual import check_vocabulary
from kick.records import CalibrationSpec, ModelSpec, Variant
from kick.sweep.clock import timed
from kick.sweep.scratch import REPORTED, folder_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


OpenModels = dict[ModelSpec, tuple[Layered, "PreTrainedTokenizerBase"]]  # to be read again


@contextmanager
def opened(
    variant: Variant, data_root: str | None, seconds: dict[str, float], loaded: OpenModels | None = None
) -> Iterator[tuple[Layered, PreTrainedTokenizerBase, Mapping[str, Any]]]:
    """The variant's model, its tokenizer and the report on its compression, for as long as this is open.

    loaded: what `load` keeps. Raises CellFailed for a recipe that needs the whole model, or another type than
    float32.
    """
    with timed(seconds, "load"):
        layered, tokenizer = load(variant.model, loaded)
    if not variant.recipe:
        size = footprint(layered.model, {}, _zeros(layered))
        yield layered, tokenizer, {"footprint": size | as_loaded(layered.model)}
        return
    whole = [step.method for step in variant.recipe if not methods[step.method].blockwise]
    if whole:
        raise CellFailed(f"{whole[0]} needs the whole model at once: the engine 'layered' cannot serve it")
    if variant.model.dtype != "float32":
        raise CellFailed(
            f"the engine 'layered' compresses in float32, got dtype {variant.model.dtype}; expected: float32"
        )
    folder = folder_of(variant, LAYERED)
    with timed(seconds, "compress"):
        report = _compressed(variant, folder, data_root)
    with timed(seconds, "load"):
        made = Layered(folder, torch.float32, paths.device())
    yield made, tokenizer, report
    shutil.rmtree(folder)


def load(spec: ModelSpec, loaded: OpenModels | None = None) -> tuple[Layered, PreTrainedTokenizerBase]:
    """A resolved model, layered, and its tokenizer; kept in `loaded`, and with it what an engine finds out.

    Raises KickError as `kick.model.load` does.
    """
    folder = locate(spec.name, spec.revision)
    check_unchanged(spec, folder)
    if loaded and spec in loaded:
        loaded[spec][0].drop_all()  # of a job that failed within a block
        return loaded[spec]
    layered = Layered(folder, getattr(torch, spec.dtype), paths.device())
    note_origin(layered.model, files_of(spec.name, folder), folder, layered.model.config)
    tokenizer = tokenizer_of(spec)
    check_vocabulary(tokenizer, layered.model.get_input_embeddings().weight.shape[0])
    if loaded is not None:
        loaded[spec] = layered, tokenizer
    return layered, tokenizer


def _compressed(variant: Variant, folder: Path, data_root: str | None) -> dict[str, Any]:
    """The report on the compression that the folder holds, carried out if it is not there."""
    manifest = folder / "kick" / "manifest.json"
    if (folder / "config.json").exists() and not (folder / "kick" / "work").exists():
        made = json.loads(manifest.read_text())
    else:
        spec = variant.calibration or CalibrationSpec("tokens")
        made = compress_checkpoint(
            variant.model, variant.recipe, spec, folder, dtype="float32", data_root=data_root, packed=False
        )
    return {name: made[name] for name in REPORTED}


def _zeros(layered: Layered) -> dict[str, int]:
    """Zeros of every matrix, counted block by block."""
    found = {}
    for index in range(len(layered.modules)):
        for linear in linears(layered.load(index)):
            zeros = linear.weight.numel() - int(torch.count_nonzero(linear.weight))
            found[f"{layered.path}.{index}.{linear.name}"] = zeros
        layered.drop(index)
    return found
