"""Variants of one model that are compressed and measured in one pass over its blocks.

For each block and each variant: read the dense block, compress it on the variant's own calibration states,
send the variant's evaluation tokens through it, let it go. So no compressed model is ever stored. A variant
that fails is left out from there on; one that asks again after the pass, or that does not fit the budget, is
compressed to a folder and read from there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from kick import paths
from kick.compress.context import Calibration
from kick.compress.streamed.stepwise import Looks, Stepwise
from kick.engine.layered import LayeredEngine
from kick.engine.layers import Passing, passes
from kick.engine.layers.forwards import SharedForward
from kick.engine.layers.passes import Forward
from kick.engine.layers.reader import LayeredReader
from kick.engine.whole import Reading
from kick.errors import KickError
from kick.matrix.memory import HELD
from kick.model.heap import give_back
from kick.model.packed import used_up
from kick.printable import say
from kick.records import Request, Response, Variant
from kick.sweep import layered
from kick.sweep.together import OpenCell, Together, tokens

log = logging.getLogger(__name__)


class Apart:
    """A variant compressed to a folder, for what cannot be answered in a pass: made when it is first needed.

    report, seconds: of the variant, filled in then.
    """

    def __init__(
        self, variant: Variant, data_root: str | None, how: Passing | None, batch_tokens: int | None
    ):
        self.variant, self.data_root, self.how, self.batch_tokens = variant, data_root, how, batch_tokens
        self.report: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self._stack = ExitStack()
        self._found: LayeredReader | KickError | None = None

    def __call__(self) -> LayeredReader:
        """The variant's own reader. Raises KickError, each time, if it cannot be compressed."""
        if self._found is None:
            try:
                opened = layered.opened(self.variant, self.data_root, self.seconds)
                model, _, report = self._stack.enter_context(opened)
                self.report |= report
                self._found = LayeredReader(model, self.batch_tokens, self.how)
            except KickError as error:
                self._found = error
        if isinstance(self._found, KickError):
            raise self._found
        return self._found

    def close(self) -> None:
        """Let the folder go."""
        self._stack.close()


@dataclass(eq=False)
class Member:
    """A variant of a group: its engine, its cells as they are asked, the calibration data of its step."""

    variant: Variant
    engine: LayeredEngine
    asking: Together
    cells: Sequence[OpenCell]
    apart: Apart
    sequences: Sequence[Tensor] = ()
    readings: list[list[Reading]] = field(default_factory=list)  # of each cell
    parts: list[list[SharedForward]] = field(default_factory=list)  # the forwards that give them
    forwards: list[Forward] = field(default_factory=list)
    step: Stepwise | None = None
    looks: bool = False
    seconds: float = 0.0  # of sending evaluation tokens through blocks

    @property
    def jobs(self) -> list[SharedForward]:
        """The forwards of all its cells."""
        return [job for part in self.parts for job in part]

    @property
    def calibration(self) -> int:
        """Bytes of memory that its calibration states take."""
        if paths.offload_folder() is not None:
            return 0
        width = self.engine.layers.network.embedding.weight.shape[1]
        return sum(ids.numel() for ids in self.sequences) * width * 4 * HELD


def measure(base: LayeredEngine, members: Sequence[Member]) -> None:
    """Answer in passes what the members' cells ask first, then what they ask after it, one by one.

    The cells of a pass are stored before the next one: a kill costs a pass, and memory holds the states
    of one.

    base: the engine of the dense model.
    """
    able = _planned(base.layers, [one for one in members if _whole(one)])
    for part in _parts(base.layers, able):
        _Pass(base.layers, part).run()
        for one in part:
            _finish(one)
        base.layers.network.release()
    for one in members:
        if one not in able:
            _finish(one)


def _finish(one: Member) -> None:
    """Answer the variant's cells, which stores them, and let go what was made and read for it."""
    try:
        if one.step is None and any(one.asking.requests()):
            say(f"kick: {one.variant.name}: compressed to a folder, not in a pass with its group")
            one.asking.guard(one.apart)
        for cell in one.cells:
            cell.seconds |= one.apart.seconds
        one.asking.go()
    finally:
        one.apart.close()
        one.engine.layers.known.clear()


def _whole(member: Member) -> bool:
    """Whether all that the variant asks can be asked at once."""
    kinds = {request.kind for requests in member.asking.requests() for request in requests}
    generates = "generate" in kinds and member.engine.layers.generate
    return bool(kinds) and not generates and not any(cell.early for cell in member.cells)


def _planned(layers: LayeredReader, members: Sequence[Member]) -> list[Member]:
    """Those whose forwards fit the budget; variants with the same questions share what does not change.

    Each cell has forwards of its own, and of all its requests: its numbers are then the same bit by bit
    whatever else is asked, and whatever of it was answered before a kill.
    """
    known: dict[tuple[Reading, ...], list[SharedForward]] = {}
    for one in members:
        one.readings = [list(dict.fromkeys(part)) for part in _readings(one)]
        for part in one.readings:
            if tuple(part) not in known:
                known[tuple(part)] = layers.shared(part)
        one.parts = [known[tuple(part)] for part in one.readings]
    return [one for one in members if one.readings and layers.bytes_of(one.jobs) <= layers.memory]


def _readings(member: Member) -> Iterator[list[Reading]]:
    """What answering each cell will read; none whose requests are refused, which it is told when asked."""
    for requests in member.asking.phases():
        try:
            yield member.engine.readings(requests)
        except KickError as error:
            log.info("%s: %s", member.variant.name, error)


def _parts(layers: LayeredReader, members: Sequence[Member]) -> Iterator[list[Member]]:
    """As many variants per pass as the budget holds, at least one."""
    part: list[Member] = []
    size = 0
    for one in members:
        more = layers.bytes_of(one.jobs) + one.calibration
        if part and size + more > layers.memory:
            yield part
            part, size = [], 0
        part.append(one)
        size += more
    if part:
        yield part


class _Pass:
    """One pass over the blocks for several variants."""

    def __init__(self, layers: LayeredReader, members: Sequence[Member]):
        self.network, self.layered, self.members = layers.network, layers.layered, list(members)
        self.memory = layers.memory

    def run(self) -> None:
        """Go through the blocks; those that fail or cannot be carried out this way are left out."""
        self.network.release()
        self._start()
        for one in list(self.members):
            self._try(one, partial(self._prepare, one))
        for index in range(len(self.layered.modules)):
            for one in list(self.members):
                self.layered.load(index)
                self._try(one, partial(self._block, one, index))
                self.layered.drop(index)
                give_back()
        passes.finish(self.network, [forward for one in self.members for forward in one.forwards])
        for one in self.members:
            self._take(one)

    def _start(self) -> None:
        distinct = list({id(job): job for one in self.members for job in one.jobs}.values())
        passes.start(self.network, [job.forward for job in distinct])
        for one in self.members:
            one.forwards = [job.forward.again() for job in one.jobs]
        for job in distinct:
            job.forward.forget()

    def _try(self, one: Member, work: Callable[[], None]) -> None:
        """Do it, or leave the variant out."""
        if not one.asking.guard(work) or one.looks:
            self.members.remove(one)
            one.forwards = []
            if one.step is not None:
                one.step.end()
                one.step = None

    def _prepare(self, one: Member) -> None:
        spec = one.variant.calibration
        propagate, seed = (spec.propagate, spec.seed) if spec else ("compressed", 0)
        sequences = tuple(ids.to(self.layered.device) for ids in one.sequences)
        context = Calibration(sequences, propagate, paths.offload_folder())
        one.step = Stepwise(self.layered, one.variant.recipe[0], context, seed)

    def _block(self, one: Member, index: int) -> None:
        if one.step is None:
            raise RuntimeError("a variant has no step")
        try:
            one.step.change(index)
        except Looks:
            one.looks = True
            return
        with used_up(self.layered.modules[index]):
            one.step.go_on(index)
            start = time.monotonic()
            passes.apply(self.network, index, one.forwards)
            one.seconds += time.monotonic() - start

    def _take(self, one: Member) -> None:
        """Hand the variant what was found."""
        if one.step is None:
            raise RuntimeError("a variant has no step")
        left = iter(one.forwards)
        for readings, jobs in zip(one.readings, one.parts, strict=True):
            one.engine.layers.take(readings, jobs, [next(left) for _ in jobs])
        one.engine.layers.passes = 1
        one.forwards = []
        one.apart.report |= one.step.report()
        one.apart.seconds["compress"] = round(one.step.seconds, 3)
        one.step.end()
        _share(one)


def _share(member: Member) -> None:
    """Add the seconds of the pass to the cells, by the tokens that each asked."""
    work = [sum(map(_tokens, one.asked_next())) for one in member.cells]
    for cell, part in zip(member.cells, work, strict=True):
        cell.took(member.seconds * part / max(1.0, sum(work)))


def _tokens(request: Request) -> float:
    return tokens(request, Response())
