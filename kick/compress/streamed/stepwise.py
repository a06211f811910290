"""A step of a recipe carried out on one block at a time, while somebody else goes through the model.

    step = Stepwise(layered, canonical_step, calibration, seed=0)
    layered.load(0); step.change(0); step.go_on(0); ...; layered.drop(0)

A method's own loop over the blocks is begun and ended at every block: what it does to a block hangs on the
calibration data and the blocks before it alone. Several steps, each with hidden states of its own, can so be
carried out side by side.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from kick.compress.calibrate.walk import Feed
from kick.compress.context import Calibration
from kick.compress.method import build
from kick.compress.scope import Scope
from kick.compress.streamed import record
from kick.compress.streamed.tally import Tally
from kick.model import linears
from kick.model.layered import Layered
from kick.records import Step


class Looks(Exception):
    """Signals a method that looks at all blocks before it changes one: it cannot be carried out stepwise."""


class Stepwise:
    """One step, its hidden states, and what it did so far. `end` it when it is done with.

    Args:
        context: the calibration data; its supply is this.
        seed: of torch's random numbers while the step runs.
    """

    def __init__(self, layered: Layered, step: Step, context: Calibration, seed: int):
        self.layered, self.step, self.context = layered, step, context
        self.device, self.seconds = layered.device, 0.0
        self.tally = Tally(layered.model)
        context.supply, context.scope = self, Scope.of(step)
        if layered.experts:
            context.masks = record.MaskBits()
        self._rows = {token for ids in context for token in ids.flatten().tolist()}
        self._scratch = tempfile.TemporaryDirectory(dir=context.offload)
        self.feed = Feed(layered.model, list(layered.modules), context, Path(self._scratch.name))
        self.feed.later = True
        self._index = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._random = torch.get_rng_state()

    def end(self) -> None:
        """Let hidden states go."""
        self.feed.states.clear()
        self.feed.next.clear()
        self._scratch.cleanup()

    def change(self, index: int) -> None:
        """Carry the step out on the next block, whose dense weights are there; it has changed ones then.

        Raises Looks for a method that is not to be carried out this way, CellFailed for what is not finite.
        """
        start, self._index = time.monotonic(), index
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._random)
            build(self.step)(self.layered.model, self.context)
            self._random = torch.get_rng_state()
        self.seconds += time.monotonic() - start

    def go_on(self, index: int) -> None:
        """Run the block that was changed for the next one's calibration states."""
        start = time.monotonic()
        self.feed.go_on(index)
        self.seconds += time.monotonic() - start

    def report(self) -> dict[str, Any]:
        """What was done, as `compress.compress` says it."""
        return {
            "steps": [self.tally.done(self.step, self.seconds)],
            "propagate": self.context.propagate,
            "notes": list(self.context.notes),
            "footprint": self.tally.footprint() | self.tally.shipped(self.layered.dtype_of),
        }

    # ---------------------------------------------------------------------------------- the walk's side

    def outside(self) -> AbstractContextManager[Any]:
        """Within it what is outside the blocks has its weights, of the embedding the rows in use."""
        return self.layered.outside(self._rows)

    def begin(self, feed: Feed, looks: bool) -> range:
        """The one block."""
        if looks:
            raise Looks
        if len(self.context):
            feed.reach(0)
        return range(self._index, self._index + 1)

    def open(self, index: int) -> None:
        """Nothing: the block's weights are there."""

    def close(self, index: int, feed: Feed, looks: bool) -> None:
        """Take down what became of the block, whose weights stay."""
        context, found = self.context, linears(self.layered.modules[index])
        context.scope.check_followed(self.step.method, context.masks, ())
        self.tally.add(f"{self.layered.path}.{index}", found, context)
        for table in (context.masks, context.formats, context.patterns):
            table.clear()
