"""walk(): the blocks of a model in order, each fed what the blocks before it give.

    for block in walk(model, calibration):
        norms = block.measure(InputNorm)      # one statistic for each distinct input, by linear's name
        for linear in block.linears:
            ...                               # change linear.weight in place

Nothing is run before a statistic is asked for. Then one block at a time is run over all samples: up to its
last wanted input to measure, and once more, changed, to feed the next block; the last block is never run
again. Peak memory is one block's statistics and the hidden states, which can be kept on disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kick.compress.calibrate import attention
from kick.compress.calibrate.statistics import Statistic
from kick.compress.calibrate.stored import Memory
from kick.compress.context import Calibration, calibration_of, tokens
from kick.errors import CellFailed
from kick.model import Linear, block_list, linears, watch
from kick.model.packed import PackedLinears
from kick.model.structure import device_of, hidden_of

S = TypeVar("S", bound=Statistic)
Call = tuple[tuple, dict[str, Any]]  # a block's arguments beside the hidden states


class _Stop(Exception):
    """Signals that everything needed of a forward pass has been seen."""


def walk(
    model: nn.Module, calibration: Sequence[Tensor], runs: bool = False, looks: bool = False
) -> Iterator[Block]:
    """Each block in turn; change it before taking the next. Raises CellFailed at a weight not finite.

    A block's linears are those that the step's scope covers. `runs` says that blocks will be run, not only
    measured: statistics kept on disk cannot replace it then. `looks` says that nothing is changed: a step
    has one walk that changes blocks, after any that look.
    """
    calibration = calibration_of(calibration)
    supply = calibration.supply
    path, found = block_list(model)
    modules = list(found)
    with tempfile.TemporaryDirectory(dir=calibration.offload) as scratch:
        feed = supply.feed if supply else None
        feed = feed or Feed(model, modules, calibration, Path(scratch))
        if runs or calibration.scope.only is not None:  # statistics on disk are of all linears
            feed.memory = None
        for index in supply.begin(feed, looks) if supply else range(len(modules)):
            module = modules[index]
            if supply:
                supply.open(index)
            name = f"{path}.{index}"
            covered = [one for one in linears(module) if calibration.scope.covers(f"{name}.{one.name}")]
            block = Block(index, name, module, covered, feed)
            for linear in block.linears:
                if not torch.isfinite(linear.weight.sum(dtype=torch.float32)):
                    raise CellFailed(f"the weight of {block.full(linear)} has NaN or infinity in it")
            yield block
            feed.left(index)
            if supply:
                if not feed.later:
                    feed.go_on(index)  # while its weights are there
                supply.close(index, feed, looks)
            if calibration.progress is not None:
                calibration.progress(index + 1, len(modules))


def shared(found: dict[str, S], wanted: Sequence[Linear]) -> list[tuple[S, list[Linear]]]:
    """Each distinct statistic with the linears whose input it is of."""
    groups: dict[int, tuple[S, list[Linear]]] = {}
    for linear in wanted:
        statistic = found[linear.name]
        groups.setdefault(id(statistic), (statistic, []))[1].append(linear)
    return list(groups.values())


@dataclass(eq=False)
class Block:
    """A decoder layer: its matrices, and what their inputs are on the calibration data."""

    index: int
    name: str
    module: nn.Module
    linears: list[Linear]
    feed: Feed
    _measured: dict[str, dict[str, Any]] = field(default_factory=dict)

    def full(self, linear: Linear | str) -> str:
        """A linear's name in the whole model."""
        return f"{self.name}.{linear if isinstance(linear, str) else linear.name}"

    def measure(self, kind: type[S], wanted: Sequence[Linear] | None = None) -> dict[str, S]:
        """A statistic of the input of each linear asked for (default: all), by name in the block.

        Linears with the same input get the same object. One that no token reaches (an expert) gets a neutral
        one, noted in run.json. With propagate "dense" all are measured at once, before anything is changed.

        Raises:
            CellFailed: NaN or infinity in an input; the message names the linear.
        """
        feed = self.feed
        if not feed.dense:
            return self._sum(kind, list(wanted or self.linears))
        if kind.kind not in self._measured:
            found = feed.memory.get(kind, self.index, feed.device) if feed.memory else None
            if found is None:
                found = self._sum(kind, self.linears)
                if feed.memory:
                    feed.memory.put(kind, self.index, len(feed.modules), found)
            else:
                self._note_unseen(found)
            self._measured[kind.kind] = found
        return {linear.name: self._measured[kind.kind][linear.name] for linear in wanted or self.linears}

    def _note_unseen(self, found: dict[str, S]) -> None:
        for name, statistic in found.items():
            if not statistic.seen:
                self.feed.calibration.note("expert saw no token", linear=self.full(name))

    def run(self, sample: int) -> Tensor:
        """The block's output on a sample, with its weights as they are now, (1, tokens, hidden)."""
        self.feed.reach(self.index)
        return self.feed.ran(self.index, sample)

    def _sum(self, kind: type[S], wanted: list[Linear]) -> dict[str, S]:
        feed = self.feed
        feed.reach(self.index)
        names = tuple(linear.name for linear in wanted)
        seen = _Seen(kind, self, wanted, feed.last.get(names))
        with feed.quickly(self.index), watch(self.module, wanted, seen.see, kind.gated):
            for sample in range(len(feed.calibration)):
                output = feed.run(self.index, sample)
                seen.end_sample(may_stop=not feed.dense)
                if feed.dense and output is not None:
                    feed.give(self.index, sample, output)
        found = seen.finish()
        self._note_unseen(found)
        feed.last[names] = seen.last
        return found


class _Seen(Generic[S]):
    """Sums up inputs as they are seen, each distinct tensor once."""

    def __init__(self, kind: type[S], block: Block, wanted: list[Linear], last: str | None):
        self.kind, self.block, self.wanted = kind, block, wanted
        self.statistics: dict[str, S] = {}
        self.sample: list[tuple[Tensor, S]] = []  # what was seen in this sample
        self.order: list[Linear] = []
        self.experts = any(linear.expert is not None for linear in wanted)
        self.last = last  # stop after this one

    def see(self, linear: Linear, x: Tensor) -> None:
        known = self.statistics.get(linear.name)
        for other, statistic in self.sample:
            if other is x and (known is None or known is statistic):
                self.statistics[linear.name] = statistic
                break
        else:
            known = known or self.kind(x.shape[-1], x.device)
            self.statistics[linear.name] = known
            known.add(x.reshape(-1, x.shape[-1]))
            self.sample.append((x, known))
        self.order.append(linear)
        if linear.name == self.last:
            raise _Stop

    def end_sample(self, may_stop: bool) -> None:
        """From the second sample on the forward may end at the input that came last in the first.

        Of a block with linears of the same names as an earlier one it is known before. If an expert is
        measured, no sample says what comes last: another may reach an expert that this one did not.
        """
        if may_stop and self.last is None and self.order and self.order[-1].called and not self.experts:
            self.last = self.order[-1].name
        self.sample.clear()
        self.order.clear()

    def finish(self) -> dict[str, S]:
        for linear in self.wanted:
            if linear.name not in self.statistics:
                self.statistics[linear.name] = self._unseen(linear)
            if not self.statistics[linear.name].finite:
                raise CellFailed(f"the input of {self.block.full(linear)} has NaN or infinity in it")
        return self.statistics

    def _unseen(self, linear: Linear) -> S:
        if linear.expert is None:
            raise CellFailed(f"no input of {self.block.full(linear)} was seen: its module is never called")
        statistic = self.kind(linear.weight.shape[1], linear.weight.device)
        statistic.neutral()
        return statistic


class Feed:
    """The hidden states before the block that was reached, and how each block is called."""

    def __init__(self, model: nn.Module, modules: list[nn.Module], calibration: Calibration, scratch: Path):
        self.model, self.modules, self.calibration = model, modules, calibration
        self.dense = calibration.propagate == "dense"
        self.memory = Memory(calibration.memory) if self.dense and calibration.memory else None
        self.supply = calibration.supply
        self.device = self.supply.device if self.supply else device_of(model)
        self.states, self.next = (
            _States(scratch if calibration.offload else None, self.device) for _ in range(2)
        )
        self.calls: list[list[Call]] = []  # by sample: the arguments of each block
        self.last: dict[tuple[str, ...], str | None] = {}  # names of linears -> the one whose input is last
        self.at = -1  # the block that `states` are the input of; -1 before the start
        self.later = False  # whether its owner calls `go_on`, after the walk has left a block

    def reach(self, index: int) -> None:
        """Bring the states up to block `index`. Dense states must be taken before a block is changed."""
        if self.at < 0:
            with self.supply.outside() if self.supply else nullcontext():
                self._start()
        while self.at < index:
            if self.dense:
                raise RuntimeError("propagate dense: measure every block before it is changed")
            with self.quickly(self.at):
                for sample in range(len(self.calibration)):
                    self.give(self.at, sample, self.ran(self.at, sample))
            self.advance()

    @contextmanager
    def quickly(self, index: int) -> Iterator[None]:
        """Within it block `index` runs on weights laid out for the processor, with our attention."""
        with PackedLinears(self.modules[index]).on(), attention.ours(self.modules[index]):
            yield

    def give(self, index: int, sample: int, output: Tensor) -> None:
        """Take a block's output as the next block's input."""
        if not torch.isfinite(output.sum(dtype=torch.float32)):
            raise CellFailed(f"block {index} gives NaN or infinity on calibration sample {sample}")
        self.next.put(index + 1, sample, output)

    def advance(self) -> None:
        """The outputs given become the states."""
        self.states.clear()
        self.states, self.next = self.next, self.states
        self.at += 1

    def go_on(self, index: int) -> None:
        """Run block `index`, as it was left, for the states of the next one, if there is one."""
        if self.at == index < len(self.modules) - 1 and not self.dense:
            self.reach(index + 1)

    def left(self, index: int) -> None:
        """Move on to the next block."""
        if self.dense and self.at == index and len(self.next):
            self.advance()

    def ran(self, index: int, sample: int) -> Tensor:
        """Block `index` on a sample, run to its end."""
        output = self.run(index, sample)
        if output is None:
            raise RuntimeError("a hook stopped the block")
        return output

    @torch.no_grad()
    def run(self, index: int, sample: int) -> Tensor | None:
        """Block `index` on a sample; None where a hook stopped it."""
        hidden = self.states.get(index, sample)
        args, kwargs = self.calls[sample][index]
        self.calibration.passes.blocks += 1
        try:
            return hidden_of(self.modules[index](hidden, *args, **kwargs))
        except _Stop:
            return None

    @torch.no_grad()
    def _start(self) -> None:
        """Embed every sample and note how the model calls its blocks; samples called alike share one note."""
        alike: dict[int, list[Call]] = {}  # by length
        for sample, ids in enumerate(tokens(self.calibration, self.device)):
            recorded: list[tuple[Tensor, tuple, dict]] = []
            try:
                with intercepted(self.modules, recorded):
                    self.model(ids, use_cache=False)
            except (TypeError, ValueError) as error:  # the model wants more of a block than hidden states
                raise CellFailed(
                    f"{type(self.model).__name__} cannot be run block by block to calibrate ({error}); "
                    "choose a method that needs none"
                ) from error
            self.states.put(0, sample, recorded[0][0])
            calls = [(args, kwargs) for _, args, kwargs in recorded]
            known = alike.setdefault(ids.shape[1], calls)
            self.calls.append(known if _equal(known, calls, set()) else calls)
        self.at = 0


def _equal(one: Any, other: Any, known: set[tuple[int, int]]) -> bool:
    """Whether two calls have the same tensors; `known` are the pairs that were found to be equal.

    An empty mapping is none to share: blocks leave values in it for later ones (Gemma 4's shared keys).
    """
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        pair = id(one), id(other)
        if pair not in known and not (one.shape == other.shape and torch.equal(one, other)):
            return False
        known.add(pair)
    elif isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(_equal(a, b, known) for a, b in zip(one, other, strict=True))
    elif isinstance(one, Mapping) and isinstance(other, Mapping):
        alike = len(one) > 0 and one.keys() == other.keys()
        return alike and all(_equal(one[name], other[name], known) for name in one)
    else:
        return not isinstance(one, Tensor) and not isinstance(other, Tensor)
    return True


@contextmanager
def intercepted(modules: list[nn.Module], recorded: list[tuple[Tensor, tuple, dict]]) -> Iterator[None]:
    """While open, the blocks only note how they are called, and the last one ends the forward."""

    def note(*args: Any, **kwargs: Any) -> Tensor:
        hidden = args[0] if args else kwargs.pop("hidden_states")
        recorded.append((hidden, args[1:], kwargs))
        if len(recorded) == len(modules):
            raise _Stop
        return hidden

    for module in modules:
        module.forward = note
    try:
        with suppress(_Stop):
            yield
    finally:
        for module in modules:
            del module.forward


class _States:
    """Hidden states by sample, in memory or as files."""

    def __init__(self, folder: Path | None, device: torch.device):
        self.folder, self.device = folder, device
        self.held: dict[int, Tensor | Path] = {}

    def __len__(self) -> int:
        return len(self.held)

    def put(self, block: int, sample: int, hidden: Tensor) -> None:
        if self.folder is None:
            self.held[sample] = hidden
            return
        file = self.folder / f"{block % 2}-{sample}.safetensors"
        save_file({"hidden": hidden.contiguous()}, file)
        self.held[sample] = file

    def get(self, _block: int, sample: int) -> Tensor:
        held = self.held[sample]
        return held if isinstance(held, Tensor) else load_file(held, device=str(self.device))["hidden"]

    def clear(self) -> None:
        self.held.clear()
