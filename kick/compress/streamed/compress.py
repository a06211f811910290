"""A recipe applied to a checkpoint by name, block by block, and saved: what `kick compress` does.

Masks and weights are those of the way through memory: weights are computed in float32, and each block's
input is what the blocks before it give before they are rounded to the type they are stored in.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from kick import __version__, compress, paths
from kick.compress import single
from kick.compress.calibrate import corpus
from kick.compress.calibrate.walk import Feed
from kick.compress.checkpoint import PACKED, RUNNING, TOLERANCE
from kick.compress.context import Calibration
from kick.compress.grid import Grid
from kick.compress.method import methods
from kick.compress.packing import quantization_config, scale_type
from kick.compress.scope import Scope
from kick.compress.streamed import record, shards, travel
from kick.compress.streamed.supply import BlockSupply, Unpacked, probe_of
from kick.compress.streamed.target import Target, claimed
from kick.errors import CellFailed, KickError
from kick.model import resolve
from kick.model.layered import Layered, Whole
from kick.model.mapped import let_libraries_go
from kick.model.shipped import stored_dtype
from kick.model.source import locate, tokenizer_of
from kick.model.stored import TensorFile
from kick.model.structure import hidden_of
from kick.model.textual import check_vocabulary
from kick.printable import say
from kick.records import CalibrationSpec, ModelSpec, Step


def compress_checkpoint(
    given: str | ModelSpec,
    recipe: Sequence[Step],
    spec: CalibrationSpec,
    out: Path,
    *,
    dtype: str | None = None,
    data_root: str | None = None,
    packed: bool = True,
) -> dict[str, Any]:
    """Compress a model into the folder `out`; the manifest.

    A recipe of methods that need the whole model at once is carried out in memory, which is said.

    Args:
        given: what `kick.model.resolve` takes, or what it gave.
        dtype: what weights are stored in; None: as the checkpoint has them.
        packed: store weights that are all on one integer grid packed.

    Raises:
        KickError: a name, option or folder that is wrong, or a folder that another process writes to.
        CellFailed: NaN, a matrix that is not positive definite, a checkpoint that is not what was computed.
    """
    if any(methods[step.method].activations for step in recipe):
        raise KickError(RUNNING)
    whole = [step.method for step in recipe if not methods[step.method].blockwise]
    try:
        if whole:
            raise Whole(f"{whole[0]} needs the whole model at once")
        with claimed(out) as target:
            return _Compression(given, recipe, spec, dtype, packed).carry_out(target, data_root)
    except Whole as reason:
        say(f"kick: {reason}; the model is loaded whole")
    name = given if isinstance(given, str) else given.name
    config = AutoConfig.from_pretrained(locate(name), trust_remote_code=False)
    own = stored_dtype(config)
    dtype = dtype or (None if own == "float32" else own)  # computed in float32; asked for, so are scales
    made = single.compress_model(name, recipe, spec, out=out, data_root=data_root, dtype=dtype)
    return made.manifest or {}


class _Compression:
    """One call: a checkpoint, a recipe, calibration."""

    def __init__(
        self,
        given: str | ModelSpec,
        recipe: Sequence[Step],
        spec: CalibrationSpec,
        dtype: str | None,
        packed: bool,
    ):
        self.given, self.recipe, self.spec, self.packed = given, list(recipe), spec, packed
        self.name = given if isinstance(given, str) else given.name
        self.dtype = None if dtype is None else getattr(torch, dtype)

    def carry_out(self, target: Target, data_root: str | None) -> dict[str, Any]:
        """Do what is not done yet, and put the checkpoint in its place; the manifest."""
        offload = paths.offload_folder()
        found = resolve(self.given) if isinstance(self.given, str) else self.given
        self.folder = locate(found.name, found.revision)
        whole = 2**63 if len(self.recipe) > 1 else None  # between two steps a block is kept whole
        self.layered = Layered(self.folder, torch.float32, paths.device(), whole=whole)
        model = self.layered.model
        tokenizer = tokenizer_of(found)
        check_vocabulary(tokenizer, model.get_input_embeddings().weight.shape[0])
        compress.check(model, self.recipe)
        compress.check_saved(model, self.recipe)
        sequences: list[Tensor] = []
        if compress.needs_calibration(self.recipe):
            sequences = corpus.sequences(self.spec, tokenizer, data_root)
            corpus.check_positions(model.config, self.spec.length)
        context = Calibration(
            tuple(one.to(self.layered.device) for one in sequences),
            self.spec.propagate,
            offload,
            progress=single.told(single.PAUSE),
        )
        identity = self._identity(found, sequences)
        let_libraries_go()
        supply = BlockSupply(self.layered, target, identity, context, self.dtype)
        context.supply = supply
        if self.layered.experts:
            context.masks = record.MaskBits()
        if not self.packed:
            supply.progress.grid = None
        if supply.progress.manifest is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.spec.seed)
                for number in range(supply.progress.step, len(self.recipe)):
                    self._step(number, supply)
            supply.save(manifest=self._finish(supply, target))
        target.place()
        return supply.progress.manifest or {}

    def _identity(self, found: ModelSpec, sequences: Sequence[Tensor]) -> dict[str, Any]:
        """What must be the same for work to be continued."""
        hasher = hashlib.sha256()
        for ids in sequences:
            hasher.update(ids.numpy().tobytes())
        return {
            "model": asdict(found),
            "recipe": [asdict(step) for step in self.recipe],
            "calibration": asdict(self.spec),
            "tokens": hasher.hexdigest(),
            "dtype": str(self.dtype),
            "packed": self.packed,
            "kick": __version__,
        }

    def _step(self, number: int, supply: BlockSupply) -> None:
        """Carry out a step from where it is."""
        step, context = self.recipe[number], supply.calibration
        supply.final = number == len(self.recipe) - 1
        context.scope = Scope.of(step)
        try:
            compress.build(step)(self.layered.model, context)
        except Unpacked:  # the next time all blocks are stored as dense weights
            supply.again()
            compress.build(step)(self.layered.model, context)
        supply.end(supply.tally.done(step, supply.progress.seconds), number)

    # ---------------------------------------------------------------------------------- the end

    def _finish(self, supply: BlockSupply, target: Target) -> dict[str, Any]:
        """Make the work folder's checkpoint whole, compare it with what was computed; its manifest."""
        folder, progress = target.checkpoint, supply.progress
        size = supply.tally.footprint()
        shards.finish(folder, supply.room, progress.shards, size["parameters"])
        self._write_masks(folder / "kick", supply)
        grid = None if not progress.grid else Grid(**progress.grid)
        self._write_config(folder, grid)
        travel.copy(self.folder, folder)
        expected = record.read(target.work / (progress.states or ""))["logits"]
        files = sorted(folder.glob("*.safetensors"))
        kind, value = supply.tally.kind, supply.dtype_of if self.packed else self.layered.dtype_of
        manifest = {
            "format": kind if grid is None else PACKED,
            "steps": progress.steps,
            "propagate": self.spec.propagate,
            "notes": progress.notes,
            "footprint": size | supply.tally.shipped(value, self.dtype if self.packed else None),
            "model": self.name,
            "calibration": asdict(self.spec) if compress.needs_calibration(self.recipe) else None,
            "dtype": str(self._main()).removeprefix("torch."),
            **({} if grid is None else {"scales": str(scale_type(self._main(), self.dtype))[6:]}),
            "logit_difference": self._difference(folder, expected),
            "bytes": {file.name: file.stat().st_size for file in files},
        }
        travel.describe(folder, self.name, manifest)
        (folder / "kick" / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        return manifest

    def _main(self) -> torch.dtype:
        """The type in which the matrices are stored."""
        return self.dtype or self.layered.dtype

    def _write_masks(self, folder: Path, supply: BlockSupply) -> None:
        (entries,) = supply.progress.masks
        if entries and not (folder / "masks.safetensors").exists():
            TensorFile(folder / "masks", supply.mask_room, entries).seal()
            os.replace(folder / "masks", folder / "masks.safetensors")
        (folder / "masks").unlink(missing_ok=True)

    def _write_config(self, folder: Path, grid: Grid | None) -> None:
        """The config as transformers would save it with these weights."""
        model = self.layered.model
        config = copy.deepcopy(model.config)
        config.dtype = str(self._main()).removeprefix("torch.")
        config.architectures = [type(model).__name__]
        if grid is None:
            config.save_pretrained(folder)
            return
        facts = config.to_dict() | {"quantization_config": quantization_config(model, grid)}
        (folder / "config.json").write_text(json.dumps(facts, indent=2, default=str) + "\n")

    @torch.no_grad()
    def _difference(self, folder: Path, expected: Tensor) -> float:
        """The largest difference of logits between what was computed and what is read from the folder."""
        layered = Layered(folder, torch.float32, paths.device(), packed=True)
        probe = probe_of(layered)
        probing = Calibration((probe,), supply=_Read(layered))
        feed = Feed(layered.model, list(layered.modules), probing, Path())
        feed.reach(0)
        state = feed.states.get(0, 0)
        for index in range(len(layered.modules)):
            args, kwargs = feed.calls[0][index]
            output = layered.load(index)(state, *args, **kwargs)
            layered.drop(index)
            state = hidden_of(output)
        difference = float((layered.logits(probe, output) - expected).abs().max())
        if not difference <= TOLERANCE * float(expected.abs().max()):
            raise CellFailed(
                f"the checkpoint, read again, gives logits that differ by {difference:g}; it was not kept"
            )
        return difference


class _Read:
    """A supply whose blocks are read, and kept nowhere."""

    feed = None

    def __init__(self, layered: Layered):
        self.layered, self.device = layered, layered.device
        self.rows = probe_of(layered).flatten().tolist()

    def outside(self) -> Any:
        """Within it what is outside the blocks has its weights."""
        return self.layered.outside(self.rows)

    def begin(self, feed: Feed, looks: bool) -> range:
        """Every block."""
        return range(len(self.layered.modules))

    def open(self, index: int) -> None:
        """Put a block's weights in their place."""
        self.layered.load(index)

    def close(self, index: int, feed: Feed, looks: bool) -> None:
        """Let them go."""
        self.layered.drop(index)
