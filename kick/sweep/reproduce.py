"""Runs one stored cell again, in a store of its own, and compares."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from kick import plugins
from kick.catalog import recorded
from kick.compress.method import methods
from kick.errors import CellFailed, KickError
from kick.judge.columns import of_judge
from kick.records import Cell, Job, Result, Score
from kick.store import Store
from kick.sweep.answered import engine_of, options_of
from kick.sweep.worker import Worker

HEADS = ["metric", "stored", "again", "difference"]
CLOSE = 1e-6  # relative


@dataclass(frozen=True)
class Reproduction:
    """The stored scores and those of the second run; `equal`: the same answers, and scores to 1e-6.

    A judge's scores are not among them: no judge is asked again.
    """

    stored: tuple[Score, ...]
    again: tuple[Score, ...]
    answers: int
    differing: int

    @property
    def equal(self) -> bool:
        return not self.differing and all(_close(a, b) for a, b in self.pairs().values())

    def pairs(self) -> dict[str, tuple[Score | None, Score | None]]:
        """Each metric's score of the first and of the second run; None if a run does not have it."""
        stored, again = ({score.metric: score for score in run} for run in (self.stored, self.again))
        return {name: (stored.get(name), again.get(name)) for name in {**stored, **again}}


def reproduce(
    cell: str,
    data_root: str | None = None,
    task_folders: Sequence[str] = (),
    plugin_paths: Sequence[str] = (),
) -> Reproduction:
    """Run the cell RESULTS/KEY again. Raises KickError if it is not there or cannot be run here.

    Args:
        data_root: a local mirror of data sets. task_folders: the user's own task files. plugin_paths: files
            that register methods, see `kick.plugins`.
    """
    folder, _, key = cell.rstrip("/").rpartition("/")
    if not folder:
        raise KickError(f"{cell!r} is not a stored cell; expected RESULTS/KEY, as `kick status` lists them")
    stored, plugins_in_full = Store(folder), plugins.load(plugin_paths)
    result = stored.result(key)
    if result.cell.imported:
        raise KickError(f"{cell}: its answers were imported; there is nothing to run again")
    _check_methods(cell, result)
    backend = engine_of(result)
    with tempfile.TemporaryDirectory() as scratch:
        again = Store(scratch, result.matrix)
        dense = result.cell if result.cell.variant.dense else None
        cells = [result.cell]
        if result.cell.reference:
            reference = stored.result(result.cell.reference)
            dense = reference.cell
            again.put(reference, stored.samples(reference.key))
        work = Worker(
            root=scratch,
            matrix=result.matrix,
            dense=(dense or result.cell).variant,
            task_names=(result.cell.task.name,),
            margin=result.margin,
            data_root=data_root,
            task_folders=tuple(task_folders),
            plugins=plugins_in_full,
            backend=backend,
            engine=options_of(backend),
            as_planned=False,  # whether an edit has changed the numbers is what may be asked
        )
        _run(work, again, cells)
        return _compare(result, again.result(key), stored, again)


def _check_methods(cell: str, result: Result) -> None:
    """Raises KickError for a step whose method is not available here: which, and how to name its file."""
    stored = result.compression.get("steps", ())
    for place, step in enumerate(result.cell.variant.recipe):
        if step.method in methods:
            continue
        facts = recorded(step.method, stored[place]) if place < len(stored) else None
        source = f" ({facts.title}; {facts.paper})" if facts else ""
        raise KickError(
            f"{cell} was compressed by the method {step.method!r}{source}, which is not available here: name "
            f"the file that defines it, --plugins PATH"
        )


def _run(work: Worker, store: Store, cells: list[Cell]) -> None:
    work(Job(cells[0].variant, tuple(cells)))
    for failure in store.failures():
        raise CellFailed(failure.cause)


def _compare(old: Result, new: Result, stored: Store, again: Store) -> Reproduction:
    before = {sample.item: sample.responses for sample in stored.samples(old.key)}
    after = {sample.item: sample.responses for sample in again.samples(new.key)}
    differing = sum(_text(before[item]) != _text(after.get(item, ())) for item in before)
    scores = tuple(score for score in old.scores if not of_judge(score.metric))
    return Reproduction(scores, new.scores, len(before), differing)


def _text(responses: tuple) -> list:
    return [(response.text, response.tokens, response.greedy) for response in responses]


def _close(a: Score | None, b: Score | None) -> bool:
    if a is None or b is None:
        return False
    if a.value is None or b.value is None:
        return a.value is b.value
    return abs(a.value - b.value) <= CLOSE * max(1.0, abs(a.value))


def _value(score: Score | None) -> str:
    return "not computed" if score is None else str(score.value)


def rows(found: Reproduction) -> list[list[str]]:
    """The scores as rows under HEADS, and how many answers differ."""
    lines = [
        [name, _value(a), _value(b), "none" if _close(a, b) else "differs"]
        for name, (a, b) in found.pairs().items()
    ]
    return [*lines, ["answers that differ", "", "", f"{found.differing} of {found.answers}"]]
