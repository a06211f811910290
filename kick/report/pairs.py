"""Closed against open book, item by item: what a variant no longer knows, and what it can no longer read.

The closed and the open task ask the same documents, so their items pair by id. An item is right with a score
of one half or more in the closed task's headline metric. The rows stand in the frame under the task
"<closed>|<open>", with the metrics known_and_read, known_not_read, read_only, neither (shares of all items),
and knowledge_lost, reading_lost (of the items that dense knows closed, or answers only with the passage).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kick import metrics
from kick.report.cells import Cell, describe
from kick.report.items import Items, align
from kick.report.rows import compared
from kick.report.tasks import closed_open, headline, task_info

QUADRANTS = ("known_and_read", "known_not_read", "read_only", "neither")
LOST = ("knowledge_lost", "reading_lost")


def rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The rows of every variant that was asked a task closed and open; none where nothing pairs."""
    books = closed_open({cell.run.cell.task.name for cell in cells})
    found: list[dict[str, Any]] = []
    for closed, opened in books.items():
        others = _by_place(cells, opened)
        for (matrix, base, setting), first in _by_place(cells, closed).items():
            here = {place[2]: second for place, second in others.items() if place[:2] == (matrix, base)}
            second = here.get(setting) or (next(iter(here.values())) if len(here) == 1 else {})
            found += _section(first, second)
    return found


def _by_place(cells: Sequence[Cell], task: str) -> dict[tuple[str, str, str], dict[str, Cell]]:
    """The task's cells by variant name, by matrix, base model and setting."""
    found: dict[tuple[str, str, str], dict[str, Cell]] = {}
    for cell in cells:
        if cell.run.cell.task.name == task:
            found.setdefault((cell.run.matrix, cell.base, cell.setting), {})[cell.variant.name] = cell
    return found


def _section(closed: dict[str, Cell], opened: dict[str, Cell]) -> Iterator[dict[str, Any]]:
    both = [name for name in closed if name in opened]
    dense_name = next((name for name in both if closed[name].variant.dense), None)
    if dense_name is None:
        return
    metric = headline(
        closed[dense_name].run.cell.task.name, [s.metric for s in closed[dense_name].run.scores]
    )
    dense = _right(closed[dense_name], opened[dense_name], metric)
    if dense is None:
        return
    ours = _columns(dense, dense)
    for name in both:
        theirs = _right(closed[name], opened[name], metric)
        if theirs is not None:
            columns = _columns(*align(theirs, dense))
            yield from _rows(closed[name], opened[name], columns, ours)


def _rows(closed: Cell, opened: Cell, theirs: Items, dense: Items) -> Iterator[dict[str, Any]]:
    names = closed.run.cell.task.name, opened.run.cell.task.name
    facts = {
        **describe(closed),
        "task": "|".join(names),
        "title": " and ".join(task_info(n).title for n in names),
    }
    facts["seconds"] = facts["compress_seconds"] = 0.0  # counted with the two tasks themselves
    for name in (*QUADRANTS, *LOST):
        metric = metrics.describe(name)
        yield {**facts, "group": "", **compared(metric, theirs, dense, facts["dense"])}


def _right(closed: Cell, opened: Cell, metric: str) -> Items | None:
    """The shared items with the columns "closed" and "open", 1 where right; None where nothing pairs."""
    first, second = align(closed.items(), opened.items())
    if not first.ids or metric not in first.columns or metric not in second.columns:
        return None
    columns = {"closed": _half(first.columns[metric]), "open": _half(second.columns[metric])}
    return Items(first.ids, first.groups, columns)


def _half(scores: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(scores), np.nan, (scores >= 0.5).astype(float))


def _columns(theirs: Items, dense: Items) -> Items:
    """The quadrants and what is lost of what dense had, an item each; both sides in the same order."""
    closed, opened = theirs.columns["closed"], theirs.columns["open"]
    knew, read = dense.columns["closed"] == 1, (dense.columns["closed"] == 0) & (dense.columns["open"] == 1)
    return Items(
        theirs.ids,
        theirs.groups,
        {
            "known_and_read": closed * opened,
            "known_not_read": closed * (1 - opened),
            "read_only": (1 - closed) * opened,
            "neither": (1 - closed) * (1 - opened),
            "knowledge_lost": np.where(knew, 1 - closed, np.nan),
            "reading_lost": np.where(read, 1 - opened, np.nan),
        },
    )
