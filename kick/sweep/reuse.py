"""Answers of stored cells for cells that ask the same under another rule, or none, of when to end.

An answer is taken by its item and the hash of its prompt: a run without `stop` after one with it asks only
the rest. Cells whose answers are all there are stored without a model.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

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


def _replayed(planned: Plan, store: Store, cell: Cell, old: Result) -> tuple[Result, Sequence[Sample]] | None:
    """The cell made of the answers of `old`; None if these do not suffice."""
    dense = cell.reference or _dense(planned, cell)
    if not store.done(dense):
        return None
    beside, there = store.samples(dense), {sample.item: sample for sample in store.samples(old.key)}
    decision: Decision | None = None
    if cell.task.stop:
        waves = Stopping.of(store.result(dense), beside, Rule.of(cell.task.stop))
        samples = list(_first(waves.order, there))
        decision = waves.end(samples)
        if decision is None:
            return None
        samples = samples[: decision.asked]
    else:
        samples = list(_first([sample.item for sample in beside], there))
        if len(samples) < len(beside):
            return None
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
        stopping=decision.record if decision else {},
        provenance=origin,
    )
    return result, samples


def _dense(planned: Plan, cell: Cell) -> str:
    return next(
        key for key, one in planned.by_key.items() if one.variant.dense and one.task.name == cell.task.name
    )


def _first(order: Iterable[str], there: Mapping[str, Sample]) -> Iterator[Sample]:
    """The samples in order, up to the first that is not there."""
    for item in order:
        if item not in there:
            return
        yield there[item]
