"""Scores again from stored answers, with no model: answers are dear and immutable, scores are cheap."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kick import tasks
from kick.errors import Damaged, KickError
from kick.provenance import provenance
from kick.records import Cell, Result
from kick.store import Store
from kick.sweep.reuse import asked
from kick.tasks import evaluate

if TYPE_CHECKING:
    from kick.matrix.plan import Plan


def rescore_stale(planned: Plan, store: Store) -> int:
    """Score again those planned cells whose answers are stored under another scoring; how many."""
    by_key = planned.by_key
    moved = 0
    for one in planned.stale(store):
        old, new = store.result(one.old), by_key[one.new]
        same = old.cell.task.stop == new.task.stop and asked(old.cell) == asked(new)
        if same and not _needs_other_dense(old.cell, new):
            again(planned.tasks[new.task.name], store, old, new)
            moved += 1
    return moved


def rename(planned: Plan, store: Store) -> int:
    """Store done cells under the names that their variants have in the matrix now; how many got another.

    A name is not part of a key, so that nothing is measured again.
    """
    renamed, by_key = 0, planned.by_key
    for result in list(store.runs()):
        cell = by_key.get(result.key)
        if cell is None or _names(cell) == _names(result.cell) or not store.done(result.key):
            continue
        name, label = _names(cell)
        variant = replace(result.cell.variant, name=name, label=label)
        store.put(replace(result, cell=replace(result.cell, variant=variant)), store.samples(result.key))
        renamed += 1
    return renamed


def _names(cell: Cell) -> tuple[str, str]:
    return cell.variant.name, cell.variant.label


def rescore(results: str, task_folders: Sequence[str] = (), say: Callable[[str], None] = print) -> int:
    """Score every stored cell of a folder again, with no model; how many were. Answers stay as they are.

    A cell whose task asks something else now is left alone and said so.
    """
    store = Store(results)
    found = list(store.runs())
    if not found:
        raise KickError(f"{results} has no finished cell; run a matrix first, with `kick run`")
    names = dict.fromkeys(result.cell.task.name for result in found)
    known = tasks.load(names, None, [Path(folder) for folder in task_folders])
    done = 0
    for result in found:
        task = known[result.cell.task.name]
        if task.digest != result.cell.task.digest:
            say(
                f"{result.key} {result.cell.variant.name} {task.name}: the task asks something else now; left"
            )
            continue
        cell = replace(result.cell, task=replace(result.cell.task, scoring=task.scoring))
        try:
            again(task, Store(results, result.matrix), result, cell)
        except Damaged as error:
            say(f"{error}; left")
            continue
        done += 1
    return done


def again(task: tasks.Task, store: Store, old: Result, cell: Cell) -> None:
    """Store `cell` with the answers of `old`, scored anew."""
    found = evaluate.rescore(task, cell.task, store.samples(old.key))
    origin = {**old.provenance, "rescored": {"from": old.key, **provenance(sys.argv)}}
    store.put(
        replace(
            old,
            key=cell.key,
            cell=cell,
            scores=found.scores,
            counts=found.counts,
            warnings=found.warnings,
            provenance=origin,
        ),
        found.samples,
    )


def _needs_other_dense(old: Cell, new: Cell) -> bool:
    """Whether the dense answers compared with are others; a dense cell that was only scored anew is not."""
    return (old.reference is None) != (new.reference is None)
