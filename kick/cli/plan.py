"""What `kick plan` and `kick status` tell, as JSON values and as rows of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kick.store import Store
from kick.sweep.progress.board import duration

HEADS = ["variant", "task", "items", "key", "state"]
STATUS_HEADS = ["matrix", "key", "variant", "task", "state", "answered", "note"]


def report(matrix: str, options: Any, measure: bool = False) -> dict[str, Any]:
    """The plan of a matrix as JSON values: cells with their states, estimates by variant, warnings, stale.

    `options`: kick.sweep.run.RunOptions. Raises KickError for a matrix that is wrong or cannot fit.
    """
    from kick.matrix import costs, stale
    from kick.matrix import measure as matrix_measure
    from kick.sweep import run

    planned, store = run.prepare(matrix, options)
    if measure:
        matrix_measure.measure(planned.variants[0].model)
        planned, store = run.prepare(matrix, options)
    done = store.done_among(planned.keys)
    failed = {failure.key: failure.cause for failure in store.failures()}
    local = None if "://" in options.out else Path(options.out)
    cells = [
        {
            "variant": cell.variant.name,
            "task": cell.task.name,
            "items": cell.task.limit or planned.tasks[cell.task.name].size,
            "key": key,
            "state": "done" if key in done else "failed" if key in failed else "to do",
            "note": failed.get(key, ""),
        }
        for key, cell in planned.by_key.items()
    ]
    left = sum(
        job.cost * sum(cell.key not in done for cell in job.cells) / len(job.cells) for job in planned.jobs
    )
    return {
        "matrix": planned.matrix.name,
        "cells": cells,
        "estimates": {
            name: {"seconds": one.total, "memory": one.memory, "disk": one.disk}
            for name, one in planned.estimates.items()
        },
        "seconds_left": left,
        "warnings": costs.preflight(planned.estimates, local),
        "stale": stale.summary(planned.stale(store)),
    }


def rows(report: Mapping[str, Any]) -> list[list[str]]:
    """The cells as rows under HEADS."""
    return [[str("" if c[head] is None else c[head]) for head in HEADS] for c in report["cells"]]


def lines(report: Mapping[str, Any]) -> list[str]:
    """The totals, warnings and stale cells in words."""
    states = Counter(cell["state"] for cell in report["cells"])
    memory = max(one["memory"] for one in report["estimates"].values())
    disk = sum(one["disk"] for one in report["estimates"].values())
    told = ", ".join(f"{count} {state}" for state, count in states.items())
    return [
        f"{len(report['cells'])} cells: {told}",
        f"estimate: {duration(report['seconds_left'])} on one worker, {memory / 1e9:.1f} GB of memory a job, "
        f"{disk / 1e6:.1f} MB of disk",
        *(f"warning: {warning}" for warning in report["warnings"]),
        *report["stale"],
    ]


def status(stores: Sequence[Store]) -> list[dict[str, Any]]:
    """The cells of these stores with their states, as JSON values."""
    found = []
    for store in stores:
        names = {result.key: result.cell for result in store.runs()}
        names |= {failure.key: failure.cell for failure in store.failures() if failure.cell}
        for state in store.states():
            cell = names.get(state.key)
            found.append(
                {
                    "matrix": state.matrix,
                    "key": state.key,
                    "variant": cell.variant.name if cell else "",
                    "task": cell.task.name if cell else "",
                    "state": state.state,
                    "answered": f"{state.answered}/{state.asked}" if state.asked else "",
                    "note": state.note,
                }
            )
    return found


def status_rows(states: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The cells as rows under STATUS_HEADS."""
    return [[str(state[head]) for head in STATUS_HEADS] for state in states]


def status_line(states: Sequence[Mapping[str, Any]]) -> str:
    """How many cells are in which state."""
    counts = Counter(state["state"] for state in states)
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "no cells"
