"""Variants with a run-time method: their engines, how those of one model are asked together, their record.

Methods that change decoding alone read prompts densely. So variants that differ in such a method are one job,
which reads each prompt once. Each decodes by itself: its numbers are those of a job of its own, bit by bit.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from kick.engine.backend import Backend
from kick.engine.sparse import Generation, SparseEngine
from kick.records import Cell, Request, Response, Step, Variant
from kick.runtime.method import build
from kick.sweep.together import OpenCell, Together

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kick.engine.packed.pack import Done


def engine(
    step: Step, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **options: Any
) -> Backend:
    """The engine that runs the model with the step's method."""
    return SparseEngine(build(step), network, tokenizer, **options)


def beside(first: Backend, variants: Sequence[Variant]) -> dict[str, SparseEngine]:
    """An engine of each variant, by name, on the model of the first one's engine."""
    if not isinstance(first, SparseEngine):
        raise RuntimeError(f"variants that share prompts, with {type(first).__name__}")
    steps = {one.name: one.runtime for one in variants if one.runtime is not None}
    return {name: first.beside(build(step)) for name, step in steps.items()}


def counted(engine: Backend, report: Mapping[str, Any]) -> Mapping[str, Any]:
    """The report on a variant's compression, with what its run-time method read since the last cell."""
    return {**report, "run_time": engine.counted()} if isinstance(engine, SparseEngine) else report


def by_task(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells of each task, tasks in their order."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.task.name, []).append(cell)
    return list(found.values())


@dataclass(eq=False)
class Sharer:
    """A variant's cell on the task that is asked: its engine, what asks and stores it."""

    engine: SparseEngine
    asking: Together
    cell: OpenCell
    requests: tuple[Request, ...] = ()
    generation: Generation | None = None

    def begin(self) -> None:
        """Take the cell up to what it asks first."""
        self.asking.begin([self.cell])
        self.requests = tuple(self.cell.asked_next())

    def prepare(self) -> None:
        """Be ready to answer as prompts are read."""
        phase = self.cell.phase
        if phase is None:
            raise RuntimeError("a cell that asks nothing")
        todo = phase.todo

        def done(index: int, response: Response) -> None:
            phase.kept.add(todo[index], response)
            self.cell.asked += 1

        self.generation = Generation(self.engine, self.requests, done)

    def go_on(self, source: _Source, number: int) -> None:
        """Answer a part of the requests. Reading its prompts is not this cell's own time."""
        if self.generation is None:
            raise RuntimeError("a cell that was not prepared")
        if part := source.part(number):
            start = time.perf_counter()
            self.generation.go_on(part)
            self.cell.took(time.perf_counter() - start)


@dataclass
class _Source:
    """Prompts in parts, each read when it is first asked for and held until the next is."""

    parts: Iterator[list[Done]]
    seconds: float = 0.0  # of reading
    _at: int = -1
    _part: list[Done] = field(default_factory=list)

    def part(self, number: int) -> list[Done]:
        """That part, which is the last one or the next; an empty one after the end."""
        start = time.perf_counter()
        if self._at < number:
            self._part = []  # let it go before the next is read
            self._part = next(self.parts, [])
            self._at = number
        self.seconds += time.perf_counter() - start
        return self._part


def ask(cells: Sequence[Sharer]) -> None:
    """Ask cells of one task: those with equal requests together, then what each still asks by itself.

    A cell that fails does not cost the others.
    """
    try:
        alike: dict[tuple[Request, ...], list[Sharer]] = {}
        for one in cells:
            one.begin()
            alike.setdefault(one.requests, []).append(one)
        for requests, members in alike.items():
            if requests and len(members) > 1 and all(one.kind == "generate" for one in requests):
                _together(members)
        for one in cells:
            one.asking.go()
    finally:
        for one in cells:
            one.asking.close()


def _together(cells: Sequence[Sharer]) -> None:
    """Answer equal requests of several cells, each prompt read once."""
    able = [one for one in cells if one.asking.guard(one.prepare)]
    if not able or able[0].generation is None:
        return
    source = _Source(able[0].generation.prompts())
    for number in count():
        able = [one for one in able if one.asking.guard(partial(one.go_on, source, number))]
        for one in able:
            one.cell.took(source.seconds / len(able))
        source.seconds = 0.0
        if not able or not source.part(number):
            return
