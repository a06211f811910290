"""Closed against open book, item by item: what a variant no longer knows, and what it can no longer read.

The closed and the open task ask the same documents, so their items pair by id. An item is right with a score
of one half or more in the closed task's headline metric. The rows are in the frame under the task
"<closed>|<open>", with the metrics known_and_read, known_not_read, read_only, neither (shares of all items),
and knowledge_lost, reading_lost (of the items that dense knows closed, or answers only with the passage).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from kick.analysis.cells import StoredCell, describe
from kick.analysis.headlines import closed_open, headline, info
from kick.analysis.items import Items, align
from kick.analysis.rows import compared
from kick.analysis.stopped import early
from kick.stats import metrics


class Keeping(Protocol):
    """Statistics that need not be computed again (`kick.analysis.kept`)."""

    def get(self, cell: StoredCell, made_of: Sequence[str | StoredCell], make: Callable[[], Any]) -> Any:
        """The value of `make`, or its earlier one for the same parts."""


QUADRANTS = ("known_and_read", "known_not_read", "read_only", "neither")
LOST = ("knowledge_lost", "reading_lost")


def rows(cells: Sequence[StoredCell], kept: Keeping) -> list[dict[str, Any]]:
    """The rows of every variant that was asked a task closed and open; none if nothing pairs."""
    books = closed_open(cell.run for cell in cells)
    found: list[dict[str, Any]] = []
    for closed, opened in books.items():
        others = _by_place(cells, opened)
        for (matrix, base, setting), first in _by_place(cells, closed).items():
            here = {place[2]: second for place, second in others.items() if place[:2] == (matrix, base)}
            second = here.get(setting) or (next(iter(here.values())) if len(here) == 1 else {})
            found += _section(first, second, kept)
    return found


def _by_place(cells: Sequence[StoredCell], task: str) -> dict[tuple[str, str, str], dict[str, StoredCell]]:
    """The task's cells by variant name, by matrix, base model and setting; without those that ended early,
    since the items that they were asked closed and open are not the same."""
    found: dict[tuple[str, str, str], dict[str, StoredCell]] = {}
    for cell in cells:
        if cell.run.cell.task.name == task and not early(cell):
            found.setdefault((cell.run.matrix, cell.base, cell.setting), {})[cell.variant.name] = cell
    return found


def _section(
    closed: dict[str, StoredCell], opened: dict[str, StoredCell], kept: Keeping
) -> Iterator[dict[str, Any]]:
    both = [name for name in closed if name in opened]
    dense_name = next((name for name in both if closed[name].variant.dense), None)
    if dense_name is None:
        return
    dense = closed[dense_name], opened[dense_name]
    metric = headline(dense[0].run)
    ours = functools.cache(lambda: _right(*dense, metric))
    for name in both:
        pair = closed[name], opened[name]
        make = functools.partial(_statistics, pair, ours, metric)
        margin = repr(pair[0].run.margin)
        found = kept.get(pair[0], ["closed and open", metric, margin, *pair, *dense], make)
        facts = _facts(*pair) if found else {}
        yield from ({**facts, "group": "", **row} for row in found)


def _facts(closed: StoredCell, opened: StoredCell) -> dict[str, Any]:
    names = closed.run.cell.task.name, opened.run.cell.task.name
    title = " and ".join(info(cell.run).title for cell in (closed, opened))
    facts = {**describe(closed), "task": "|".join(names), "title": title, "family": ""}
    facts["seconds"] = facts["compress_seconds"] = 0.0  # counted with the two tasks themselves
    return facts


def _statistics(
    pair: tuple[StoredCell, StoredCell], ours: Callable[[], Items | None], metric: str
) -> list[dict[str, Any]]:
    """The metrics of a variant's two books beside dense's two; none if nothing pairs."""
    dense = ours()
    theirs = _right(*pair, metric) if dense is not None else None
    if dense is None or theirs is None:
        return []
    columns, before = _columns(*align(theirs, dense)), _columns(dense, dense)
    own = pair[0].variant.dense, pair[0].run.margin
    return [compared(metrics.describe(name), columns, before, *own) for name in (*QUADRANTS, *LOST)]


def _right(closed: StoredCell, opened: StoredCell, metric: str) -> Items | None:
    """The shared items with the columns "closed" and "open", 1 if right; None if nothing pairs."""
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
