"""Gives a method's walk the blocks of a checkpoint one at a time, and keeps what becomes of them.

A block that a walk has left is run on the calibration data as it is, then written: rounded to the type of
the checkpoint, read back, compared bit by bit. A probe of a few tokens goes through the blocks as they are
stored; its logits are what the finished checkpoint is compared with.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kick import compress
from kick.compress.calibrate.walk import Feed
from kick.compress.context import Calibration, Quantized
from kick.compress.grid import Grid
from kick.compress.packing import packed, rounded, scale_type
from kick.compress.streamed import record
from kick.compress.streamed.shards import LIMIT, Shards
from kick.compress.streamed.tally import Tally, packable
from kick.compress.streamed.target import Target
from kick.errors import CellFailed
from kick.model import Linear, linears
from kick.model.heap import give_back
from kick.model.layered import OUTSIDE, Layered
from kick.model.stored import TensorFile, header_room
from kick.model.structure import hidden_of

PROBE = 32  # tokens
WORTH = 2  # hidden states are written once so many of their bytes of weights were, or more


class Unpacked(Exception):
    """Signals that a block has left the grid that the blocks before it are stored on."""


@dataclass
class Progress:
    """How far it is, as JSON values: the next block of the step at hand, and what is there of all before.

    `matrices`: by full name, weights, zeros, pruned ones, and how it could be stored. `grid`: the packed
    format's, {} before it is known, None for dense weights. `states`: the file with the next block's input.
    """

    step: int = 0
    block: int = 0
    shards: list[dict[str, Any]] = field(default_factory=list)
    masks: list[dict[str, Any]] = field(default_factory=list)
    matrices: dict[str, dict[str, Any]] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    grid: dict[str, Any] | None = field(default_factory=dict)
    states: str | None = None
    seconds: float = 0.0
    manifest: dict[str, Any] | None = None  # of a checkpoint that only has to be placed


class BlockSupply:
    """The supply of one compression. Its `progress` is saved as blocks are done.

    Args:
        dtype: what weights are stored in; None: each in the type it has.
    """

    feed = None

    def __init__(
        self,
        layered: Layered,
        target: Target,
        identity: Mapping[str, Any],
        calibration: Calibration,
        dtype: torch.dtype | None,
    ):
        self.layered, self.target, self.identity, self.calibration = layered, target, identity, calibration
        self.asked, self.device = dtype, layered.device
        self.progress = Progress(**target.resume(identity) or {})
        calibration.notes[:] = self.progress.notes
        self.final = False
        self.rounded: torch.dtype | None = None  # what is outside the blocks
        self.probe = probe_of(layered)
        self.rows = {token for ids in (*calibration, self.probe) for token in ids.flatten().tolist()}
        self.shards: Shards | None = None
        self.tally = Tally(layered.model, self.progress.matrices)
        self.since = 0  # bytes of weights written since the hidden states were
        names = [*layered.stored, *layered.model.state_dict()]
        self.mask_room = header_room(names)
        self.room = header_room([*names, *(f"{name}_zero_point" for name in names for _ in range(3))])
        self.before: tuple[set[str], dict[str, Quantized], dict[str, Tensor]] = set(), {}, {}

    # ---------------------------------------------------------------------------------- the walk's side

    def outside(self) -> AbstractContextManager[Any]:
        """Within it what is outside the blocks has its weights, of the embedding the rows in use."""
        return self.layered.outside(self.rows, rounded=self.rounded)

    def begin(self, feed: Feed, looks: bool) -> range:
        """Prepare for a walk; the blocks that it has."""
        every = range(len(self.layered.modules))
        if looks:
            return every
        self.started = time.monotonic()
        if len(self.calibration):
            feed.reach(0)
        known = record.read(self.target.work / self.progress.states) if self.progress.states else {}
        if self.final:
            self._open_shards()
            probing = Calibration((self.probe,), supply=self)
            self.probing = Feed(self.layered.model, list(self.layered.modules), probing, Path())
            self.rounded = self.asked  # the probe goes through the model as it is written
            self.probing.reach(0)
            self.rounded = None
            self.state = known.get("probe", self.probing.states.get(0, 0))
            self.output: Any = None
        if self.progress.block:
            for sample in range(len(self.calibration)):
                feed.states.put(self.progress.block, sample, known[f"state {sample}"])
            feed.at = self.progress.block if len(self.calibration) else -1
        if "random" in known:
            torch.set_rng_state(known["random"])
        self.random = torch.get_rng_state()
        return every[self.progress.block :]

    def open(self, index: int) -> None:
        """Put a block's weights in their place."""
        if self.progress.step:
            weights = self._between(self.progress.step - 1).get(index, self.calibration)
            self.layered.put(index, weights)
            formats = {n: one for n, one in self.calibration.formats.items() if one.grid is None}
            matrices = linears(self.layered.modules[index]) if formats else []
            known = {linear.name: linear.weight.clone() for linear in matrices}
            self.before = set(self.calibration.masks), formats, known
        else:
            self.layered.load(index)

    def close(self, index: int, feed: Feed, looks: bool) -> None:
        """Take a block: keep it as it is now, unless the walk only looks."""
        if not looks:
            self._keep(index)
        self.layered.drop(index)
        for table in (self.calibration.masks, self.calibration.formats, self.calibration.patterns):
            table.clear()
        give_back()
        if not looks:
            self.progress.seconds += self._lap()
            self._save(index + 1, feed)

    # ---------------------------------------------------------------------------------- one block

    def _keep(self, index: int) -> None:
        block, path = self.layered.modules[index], f"{self.layered.path}.{index}"
        found = linears(block)
        before, formats, known = self.before
        if self.progress.step:
            compress.settle(path, found, self.calibration, formats, known)
        step = self.identity["recipe"][self.progress.step]
        self.calibration.scope.check_followed(step["method"], self.calibration.masks, before)
        self.tally.add(path, found, self.calibration)
        if self.final:
            self._store(index, path, found)
        else:
            tensors = {name: tensor.clone() for name, tensor in self.layered.own(index).items()}
            self._between(self.progress.step).put(index, tensors, self.calibration)
            self.since += sum(tensor.nbytes for tensor in tensors.values())

    @torch.no_grad()
    def _store(self, index: int, path: str, found: list[Linear]) -> None:
        """Write a block to the checkpoint, and send the probe through it as it is written."""
        tensors = self._packed(path, found) if self._grid(path, found) else {}
        if self.shards is not None and not self.shards.files:
            self._write_outside(self.shards, bool(tensors))
        matrices = {f"{path}.{linear.name}.weight" for linear in found} if tensors else set()
        plain = {name: one for name, one in self.layered.own(index).items() if name not in matrices}
        for name, tensor in plain.items():
            rounded = tensor.to(self.dtype_of(name))
            if tensor.is_floating_point() and not torch.isfinite(rounded.sum(dtype=torch.float32)):
                raise CellFailed(f"{name} does not fit into {rounded.dtype}: choose another --dtype")
            tensor.copy_(rounded)
            plain[name] = rounded
        tensors |= plain if tensors else self.layered.as_saved(plain)
        for name, tensor in tensors.items():
            self._write(name, tensor)
        self._store_experts(index, path)
        for name, kept in self.calibration.masks.items():
            self.masks.add(name, record.bits(kept))
        args, kwargs = self.probing.calls[0][index]
        self.output = self.layered.modules[index](self.state, *args, **kwargs)
        self.state = hidden_of(self.output)

    def _store_experts(self, index: int, path: str) -> None:
        """Write those of a block's experts that are read one at a time, by the names of their own file."""
        for one in self.layered.opened.get(index, ()):  # a block between two steps has none
            for key, parameter, tensor in one.saved():
                dtype = self.dtype_of(one.name(path, parameter))
                rounded = tensor.to(dtype)
                if not torch.isfinite(rounded.sum(dtype=torch.float32)):
                    raise CellFailed(f"{key} does not fit into {dtype}: choose another --dtype")
                if not torch.equal(rounded.to(tensor.dtype), tensor):
                    tensor.copy_(rounded)
                self._write(key, rounded)

    def _write(self, name: str, tensor: Tensor) -> None:
        """Append a tensor to the checkpoint and read it back. Raises CellFailed if that gives another."""
        if self.shards is None:
            raise RuntimeError("no checkpoint is open")
        stored = self.shards.add(name, tensor)
        self.since += tensor.nbytes
        written = tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
        if not torch.equal(stored.read().reshape(-1).view(torch.uint8), written):
            raise CellFailed(f"{name}, read back from {stored.file}, is not what was written")

    def _grid(self, path: str, found: list[Linear]) -> Grid | None:
        """The grid that the block is packed on, None for dense weights; the first block decides for all."""
        grids = {
            stored.grid if (stored := self.calibration.formats.get(f"{path}.{one.name}")) else None
            for one in found
        }
        grid = grids.pop() if all(map(packable, found)) and len(grids) == 1 else None
        if self.progress.grid == {}:
            self.progress.grid = None if grid is None else asdict(grid)
        elif self.progress.grid is not None and (grid is None or asdict(grid) != self.progress.grid):
            raise Unpacked
        return grid if self.progress.grid is not None else None

    def _packed(self, path: str, found: list[Linear]) -> dict[str, Tensor]:
        """The packed matrices of a block, which gets the weights that they stand for."""
        tensors: dict[str, Tensor] = {}
        for linear in found:
            name = f"{path}.{linear.name}"
            stored, dtype = self.calibration.formats[name], self.scale_type(name)
            grid, scale = stored.on_grid()
            codes = grid.quantize(linear.weight, scale)
            tensors |= packed(name, codes, stored, dtype)
            linear.put(grid.dequantize(codes, rounded(name, scale, dtype)))
        return tensors

    def scale_type(self, name: str) -> torch.dtype:
        """The type in which a packed matrix's scales are written."""
        return scale_type(self.dtype_of(f"{name}.weight"), self.asked)

    def dtype_of(self, name: str) -> torch.dtype:
        """The type in which a tensor of the model is written."""
        own = self.layered.dtype_of(name)
        return self.asked if self.asked is not None and own.is_floating_point else own

    # ---------------------------------------------------------------------------------- files

    def _between(self, step: int) -> record.BetweenSteps:
        return record.BetweenSteps(self.target.work / f"step-{step}")

    def _open_shards(self) -> None:
        """The checkpoint's files as far as they are."""
        folder = self.target.checkpoint
        self.shards = Shards(folder, self.room, LIMIT, self.progress.shards)
        (folder / "kick").mkdir(exist_ok=True)
        masks = self.progress.masks[0] if self.progress.masks else None
        self.masks = TensorFile(folder / "kick" / "masks", self.mask_room, masks)

    def _write_outside(self, shards: Shards, packed: bool) -> None:
        """All that is not in a block; by the model's own names if matrices are packed, as those are."""
        layered = self.layered
        as_saved = (lambda tensors: tensors) if packed else layered.as_saved
        made_of_several = []
        for name, tensor in layered.own(OUTSIDE).items():
            if name in layered.plain:
                (saved,) = as_saved({name: tensor})
                shards.copy(saved, layered.stored[layered.plain[name]], self.dtype_of(name))
            else:
                made_of_several.append(name)
        if made_of_several:
            size = layered.model.get_input_embeddings().weight.shape[0]
            with layered.outside(range(size), head=True):
                found = layered.own(OUTSIDE)
                parts = {name: found[name].to(self.dtype_of(name)) for name in made_of_several}
                for name, tensor in as_saved(parts).items():
                    shards.add(name, tensor)

    def _save(self, block: int, feed: Feed) -> None:
        """Note that all blocks before this one are done, where its input is worth to be written."""
        if block == len(self.layered.modules):
            return  # the step's end is noted by whoever carries out steps
        samples = range(len(self.calibration))
        states = {f"state {sample}": feed.states.get(block, sample) for sample in samples}
        size = sum(state.nbytes for state in states.values())
        if size > WORTH * self.since or any(_leaves(call) for calls in feed.calls for call in calls[:1]):
            return
        if self.final:
            states["probe"] = self.state
        states["random"] = torch.get_rng_state()
        name = f"states-{self.progress.step}-{block}.safetensors"
        record.write(self.target.work / name, states)
        self.save(block=block, states=name)
        self.since = 0

    def end(self, done: dict[str, Any], number: int) -> None:
        """Note that a step is done, with what a later process needs for what follows."""
        states = {"random": torch.get_rng_state()}
        if self.final and self.shards is not None:
            states["logits"] = self.layered.logits(self.probe, self.output, self.asked)
            self.shards.close()
            self.masks.close()
        name = f"states-{number + 1}-0.safetensors"
        record.write(self.target.work / name, states)
        steps = [*self.progress.steps, done]
        self.save(step=number + 1, block=0, states=name, steps=steps, seconds=0.0)
        shutil.rmtree(self._between(number - 1).folder, ignore_errors=True)

    def again(self) -> None:
        """Begin the last step's blocks anew, all of them stored as dense weights."""
        if self.shards is not None:
            self.shards.close()
            self.masks.close()
        self.layered.drop_all()
        for table in (self.calibration.masks, self.calibration.formats, self.calibration.patterns):
            table.clear()
        self.shards = None
        self.save(block=0, states=None, grid=None, shards=[], masks=[])

    def _lap(self) -> float:
        now = time.monotonic()
        before, self.started = self.started, now
        return now - before

    def save(self, **changes: Any) -> None:
        """Change the progress and note it; hidden states that are no longer needed go."""
        for name, value in changes.items():
            setattr(self.progress, name, value)
        self.progress.notes = list(self.calibration.notes)
        if self.final and self.shards is not None:
            self.progress.shards, self.progress.masks = self.shards.entries(), [self.masks.entries]
        self.target.save(self.identity, vars(self.progress))
        for file in self.target.work.glob("states-*"):
            if file.name != self.progress.states:
                file.unlink()


def _leaves(call: tuple[tuple, dict[str, Any]]) -> bool:
    """Whether a block leaves values for later ones among its arguments: they are not written."""
    return any(isinstance(value, Mapping) for value in (*call[0], *call[1].values()))


def probe_of(layered: Layered) -> Tensor:
    """The tokens (1, PROBE) that a checkpoint is compared on."""
    generator = torch.Generator().manual_seed(0)
    size = layered.model.get_input_embeddings().weight.shape[0]
    return torch.randint(0, size, (1, PROBE), generator=generator)
