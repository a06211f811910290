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
from kick.sweep.reuse import asked, ended
from kick.tasks import evaluate

if TYPE_CHECKING:
    from kick.matrix.plan import Plan


def rescore_stale(planned: Plan, store: Store) -> int:
    """Score again those planned cells whose answers are stored under another scoring; how many."""
    by_key = planned.by_key
    moved = 0
    pairs = [(store.result(one.old), by_key[one.new]) for one in planned.stale(store)]
    for old, new in sorted(pairs, key=lambda pair: not pair[1].variant.dense):  # rules look at dense's scores
        same = old.cell.task.stop == new.task.stop and asked(old.cell) == asked(new)
        if same and not _needs_other_dense(old.cell, new):
            moved += again(planned.tasks[new.task.name], store, old, new)
    return moved


def rename(planned: Plan, store: Store) -> tuple[int, int]:
    """Store done cells under the names that their variants have in the matrix now, and with its margin; how
    many got another name, and how many another margin.

    Neither a name nor the margin of whole cells is part of a key, so that nothing is measured again.
    """
    by_key, margin, names, margins = planned.by_key, planned.matrix.margin, 0, 0
    for result in list(store.runs()):
        cell = by_key.get(result.key)
        if cell is None or not store.done(result.key):
            continue
        renamed, moved = _names(cell) != _names(result.cell), result.margin != margin
        if renamed or moved:
            name, label = _names(cell)
            variant = replace(result.cell.variant, name=name, label=label)
            named = replace(result, cell=replace(result.cell, variant=variant), margin=margin)
            store.put(named, store.samples(result.key))
            names, margins = names + renamed, margins + moved
    return names, margins


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
    dense: dict[str, str] = {}  # keys, before and after
    for result in sorted(found, key=lambda one: not one.cell.variant.dense):
        task, place = known[result.cell.task.name], f"{result.key} {result.cell.variant.name}"
        if task.digest != result.cell.task.digest:
            say(f"{place} {task.name}: the task asks something else now; left")
            continue
        if result.cell.imported:
            say(f"{place} {task.name}: imported; left")
            continue
        if refused := _refused(task, result.cell):
            say(f"{place} {refused}; left")
            continue
        reference = dense.get(result.cell.reference or "", result.cell.reference)
        spec = replace(result.cell.task, scoring=task.scoring)
        cell = replace(result.cell, task=spec, reference=reference)
        if cell.variant.dense:
            dense[result.key] = cell.key
        try:
            moved = again(task, store, result, cell)
        except Damaged as error:
            say(f"{error}; left")
            continue
        done += moved
        if not moved:
            say(f"{place} {task.name}: scored so, its rule asks more items, as `kick run` does; left")
    return done


def _refused(task: tasks.Task, cell: Cell) -> str:
    """Why the task cannot be scored here, such as programs that may not be run; "" if it can be."""
    try:
        task.check(cell.task)
    except KickError as error:
        return str(error)
    return ""


def again(task: tasks.Task, store: Store, old: Result, cell: Cell) -> bool:
    """Store `cell` with the answers of `old`, scored anew; whether it could be: a rule may ask for more."""
    found, stopping = evaluate.rescore(task, cell.task, store.samples(old.key)), old.stopping
    if old.stopping:
        end = ended(store, cell, found.samples)
        if end is None:
            return False
        samples, stopping = end[0], end[1].record
        items = {item.id: item for item in task.answered(cell.task, samples)}
        found = evaluate.summarised(task, [items[sample.item] for sample in samples], samples)
    origin = {**old.provenance, "rescored": {"from": old.key, **provenance(sys.argv)}}
    store.put(
        replace(
            old,
            key=cell.key,
            cell=cell,
            scores=found.scores,
            counts=found.counts,
            warnings=found.warnings,
            stopping=stopping,
            provenance=origin,
        ),
        found.samples,
    )
    return True


def _needs_other_dense(old: Cell, new: Cell) -> bool:
    """Whether the dense answers compared with are others; a dense cell that was only scored anew is not."""
    return (old.reference is None) != (new.reference is None)
