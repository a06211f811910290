"""Advice on stored results: verdicts at the tolerance asked for, and how many items would decide.

Both are computed from the items where cells were stored with another margin. A cell with a rule to end by
keeps the looks of that rule: its 5 % was spent over all of them whichever margin they were about, so that the
rule's verdict for another margin holds as well wherever the cell ended.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from kick.analysis import items, stopped, stopping
from kick.analysis.advice import Advice, Candidate, Evidence, Size, advise
from kick.analysis.cells import StoredCell, by_asked
from kick.analysis.frame import Results
from kick.analysis.frame_rows import SECTION, headlines
from kick.analysis.headlines import headline
from kick.analysis.items import Items
from kick.stats import metrics
from kick.stats.forecast import items_to_decide
from kick.stats.metrics import Metric
from kick.stats.paired import How
from kick.stats.sequential import Design, Floats, Rule

Sides = Mapping[str, tuple[StoredCell, StoredCell]]  # by a cell's key: it, and dense's


def advised(
    results: Results,
    *,
    tolerance: float | None = None,
    memory: float | None = None,
    tasks: Sequence[str] = (),
    by: Size = "shipped",
) -> list[Advice]:
    """The advice on each matrix and base model of these results, see `kick.analysis.advice.advise`.

    `tolerance` None: the margin that they were measured with, the smallest of several.

    Raises KickError for an unknown task or one without a verdict, and for cells with damaged items.
    """
    found = []
    for _, part in results.frame.groupby(SECTION, sort=False):
        share = float(part["margin"].min()) if tolerance is None else tolerance
        frame = at(replace(results, frame=part), share)
        made = advise(frame, tolerance=share, memory=memory, tasks=tasks, by=by)
        found.append(forecast(made, results))
    return found


def at(results: Results, tolerance: float) -> pd.DataFrame:
    """The frame with the verdicts of headline metrics, over all items, at this margin.

    Raises Unreadable for a cell with damaged items.
    """
    frame = results.frame.copy()
    sides = _sides(results)
    rows = headlines(frame)
    rows = rows[~rows["dense"] & ~rows["foreign"]]
    for row, key, stored in zip(rows.index, rows["key"], rows["margin"], strict=True):
        if key in sides and not math.isclose(stored, tolerance):
            frame.loc[row, "verdict"] = verdict(*sides[key], tolerance)
            frame.loc[row, "margin"] = tolerance
    return frame


def verdict(cell: StoredCell, dense: StoredCell, tolerance: float) -> str:
    """The frame's verdict on a cell's headline metric at this margin; "" if it has none."""
    metric, ours, theirs = metrics.describe(headline(cell.run)), dense.items(), cell.items()
    rule = _rule(cell, metric, tolerance)
    if rule is not None:
        again = stopped.replayed(rule.text, metric, ours, theirs)
        if again is not None:
            return stopped.SHOWN.get(again.verdict, again.verdict)
    if stopped.early(cell):
        return ""  # without its rule nothing can be said of items that were not asked
    found = items.difference(ours, theirs, metric, how=How(tolerance))
    return found.verdict if found is not None else ""


def forecast(advice: Advice, results: Results) -> Advice:
    """The advice with the number of items that would decide what is undecided of the nearest variants."""
    sides = _sides(results)

    def known(one: Evidence) -> Evidence:
        if one.verdict != "undecided" or one.key not in sides:
            return one
        return replace(one, decide=_decide(*sides[one.key], advice.tolerance))

    def told(one: Candidate) -> Candidate:
        return replace(one, evidence=tuple(known(evidence) for evidence in one.evidence))

    return replace(advice, nearest=tuple(told(one) for one in advice.nearest))


def _sides(results: Results) -> Sides:
    found: dict[str, tuple[StoredCell, StoredCell]] = {}
    for part in by_asked(results.cells).values():
        dense = next((cell for cell in part if cell.variant.dense), None)
        found |= {cell.run.key: (cell, dense) for cell in part if dense is not None}
    return found


def _rule(cell: StoredCell, metric: Metric, tolerance: float) -> Rule | None:
    """The cell's rule with this margin; None if it has none for this metric."""
    text = cell.run.cell.task.stop
    if not text or metric != stopping.deciding(cell.run):
        return None
    return replace(Rule.of(text), margin=tolerance)


def _decide(cell: StoredCell, dense: StoredCell, tolerance: float) -> int | None:
    metric, ours, theirs = metrics.describe(headline(cell.run)), dense.items(), cell.items()
    if not (ours.has(metric) and theirs.has(metric)):
        return None
    rule = _rule(cell, metric, tolerance) or Rule(margin=tolerance)
    number = items_to_decide(*_in_order(ours, theirs, metric), metric, rule)
    return number if number is not None and number > len(theirs.ids) else None  # so many have not decided


def _in_order(dense: Items, theirs: Items, metric: Metric) -> tuple[Design, Floats]:
    """Dense's items, those that the cell was asked first, and the cell's scores of these."""
    place = {item: row for row, item in enumerate(dense.ids)}
    asked = [place[item] for item in theirs.ids if item in place]
    order = np.array([*asked, *sorted(set(place.values()) - set(asked))], dtype=np.intp)
    values = theirs.columns[metric.column][[item in place for item in theirs.ids]]
    return Design.of({name: column[order] for name, column in dense.columns.items()}, metric), values
