"""Answers of stored cells for cells that ask the same under another rule, or none, of when to end.

An answer is taken by its item and the hash of its prompt: a run without `stop` after one with it asks only
the rest. Cells whose answers are all there are stored without a model.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kick.analysis.stopping import Stopping
from kick.matrix.plan import Plan
from kick.provenance import provenance
from kick.records import Cell, Response, Result, Sample, canonical
from kick.stats.sequential import Decision, Rule
from kick.store import Store
from kick.tasks import evaluate
from kick.tasks.task import Item, Task

Reuse = Mapping[str, tuple[str, ...]]  # by a cell's key those of the stored cells that asked the same


def asked(cell: Cell) -> str:
    """What makes a cell's answers, as text: its identity without scoring, rule and dense cell."""
    return canonical(replace(cell, task=replace(cell.task, scoring="", stop=""), reference=None).identity())


def siblings(planned: Mapping[str, Cell], tasks: Mapping[str, Task], stored: Iterable[Result]) -> Reuse:
    """By key of each planned cell that is not stored, the stored cells that asked the same; most items first.

    Of a task that reads dense's answers only those beside the same dense cell.
    """
    alike: dict[str, list[Result]] = {}
    present = set()
    for result in stored:
        present.add(result.key)
        alike.setdefault(asked(result.cell), []).append(result)
    found = {}
    for key, cell in planned.items() if alike else ():
        others = [
            other
            for other in (alike.get(asked(cell), ()) if key not in present else ())
            if not tasks[cell.task.name].needs_reference or other.cell.reference == cell.reference
        ]
        others.sort(key=lambda one: (-one.counts.get("items", 0), one.key))
        if others:
            found[key] = tuple(one.key for one in others)
    return found


def known(store: Store, keys: Sequence[str], items: Sequence[Item]) -> dict[str, tuple[Response, ...]]:
    """The stored responses of these items, by id; none of an item whose prompt was another."""
    prompts = {item.id: item.prompt for item in items} if keys else {}
    found: dict[str, tuple[Response, ...]] = {}
    for key in keys:
        for sample in store.samples(key) if store.done(key) else ():
            if prompts.get(sample.item) == sample.prompt:
                found.setdefault(sample.item, sample.responses)
    return found


def replay(planned: Plan, store: Store) -> int:
    """Store those planned cells whose answers are all stored under another rule; how many. No model is
    loaded."""
    by_key, done = planned.by_key, 0
    for key, others in siblings(by_key, planned.tasks, store.runs()).items():
        cell = by_key[key]
        for other in others:
            old = store.result(other)
            if old.cell.task.scoring == cell.task.scoring and store.done(other):
                made = _replayed(planned, store, cell, old)
                if made is not None:
                    store.put(*made)
                    done += 1
                    break
    return done


def ended(store: Store, cell: Cell, samples: Iterable[Sample]) -> tuple[list[Sample], Decision] | None:
    """The samples up to where the cell's rule ends it, in the order of asking, and what the rule says.

    None if it does not end with these samples, or dense's are not stored.
    """
    if cell.reference is None or not store.done(cell.reference):
        return None
    dense = store.result(cell.reference)
    waves = Stopping.of(dense, store.samples(dense.key), Rule.of(cell.task.stop))
    first = list(_first(waves.order, samples))
    decision = waves.end(first)
    return None if decision is None else (first[: decision.asked], decision)


def _whole(store: Store, dense: str, samples: Iterable[Sample]) -> list[Sample] | None:
    """The samples in the order of the task; None if they are not of all items that dense was asked."""
    if not store.done(dense):
        return None
    order = [sample.item for sample in store.samples(dense)]
    found = list(_first(order, samples))
    return found if len(found) == len(order) else None


def _replayed(planned: Plan, store: Store, cell: Cell, old: Result) -> tuple[Result, Sequence[Sample]] | None:
    """The cell made of the answers of `old`; None if these do not suffice."""
    stored = store.samples(old.key)
    stopping: Mapping[str, Any] = {}
    if cell.task.stop:
        end = ended(store, cell, stored)
        if end is None:
            return None
        samples, stopping = end[0], end[1].record
    else:
        whole = _whole(store, cell.reference or _dense(planned, cell), stored)
        if whole is None:
            return None
        samples = whole
    task = planned.tasks[cell.task.name]
    items = {item.id: item for item in task.answered(cell.task, samples)}
    found = evaluate.summarised(task, [items[sample.item] for sample in samples], samples)
    origin = {**old.provenance, "replayed": {"from": old.key, **provenance(sys.argv)}}
    result = replace(
        old,
        key=cell.key,
        cell=cell,
        scores=found.scores,
        counts=found.counts,
        warnings=found.warnings,
        seconds={},
        margin=planned.matrix.margin,
        stopping=stopping,
        provenance=origin,
    )
    return result, samples


def _dense(planned: Plan, cell: Cell) -> str:
    return next(
        key for key, one in planned.by_key.items() if one.variant.dense and one.task.name == cell.task.name
    )


def _first(order: Iterable[str], samples: Iterable[Sample]) -> Iterator[Sample]:
    """The samples in this order, up to the first item that has none."""
    there = {sample.item: sample for sample in samples}
    return (there[item] for item in itertools.takewhile(there.__contains__, order))
