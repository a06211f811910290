"""Made-up cells that ended early: the first items of a whole cell, with the record that the rule gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kick.analysis.headlines import headline
from kick.analysis.items import Items
from kick.records import Result
from kick.stats import metrics
from kick.stats.sequential import Design, Rule, replay
from tests.support.synthetic import FakeStore, result


def of(store: FakeStore, name: str, task: str) -> Result:
    """The result of a variant on a task."""
    return next(run for run in store.runs() if (run.cell.variant.name, run.cell.task.name) == (name, task))


def end_early(
    store: FakeStore, name: str, task: str, rule: Rule | None = None, at: int | None = None
) -> Result:
    """Replace a whole cell by one that the rule has ended, or that ended after `at` items for its precision;
    a cell that the rule asks to the end keeps all of its items, and has a record."""
    rule = rule or Rule()
    whole, dense = of(store, name, task), of(store, "dense", task)
    metric = metrics.describe(headline(whole))
    before, theirs = (Items.of(store.samples(run.key)).columns[metric.column] for run in (dense, whole))
    design = Design(before, np.zeros(len(before), dtype=np.int64))
    found = replay(design, theirs[:at] if at else theirs, metric, rule)
    record = dict(found.record) | ({"reason": "precise"} if at else {})
    samples = store.samples(whole.key)[: found.asked]
    made = result(task, whole.cell.variant, samples, whole.matrix, stop=rule.text)
    seconds = made.seconds | {"answer": 0.5 * found.asked}
    made = replace(made, stopping=record, seconds=seconds, margin=rule.margin)
    del store.results[whole.key], store.items[whole.key]
    store.put(made, samples)
    return made
