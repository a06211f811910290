"""The usual shape of a table: variants down, tasks across, a score in each cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from kick.report import select, wording
from kick.report.tables.entry import Table

Row = Mapping[str, Any]


def note(rows: pd.DataFrame) -> str:
    """How to read the cells."""
    margin = wording.percent(select.margin(rows))
    text = (
        "Score with its 95 % interval over items, then the paired difference to dense: "
        f"= matching (within {margin} of dense, shown), \u25bc worse, \u25b2 better, ? undecided at this n, "
        "~ inside the noise of a dense replica, \u2248 inside the noise of compression (another order of the "
        "calibration sequences)."
    )
    if (rows["stopped"] != "").any():
        text += (
            " A cell with n of N ended before all items were asked: its score is an estimate for all N, and "
            "its interval holds at every look."
        )
    return text


def score_cell(row: Row) -> str:
    """A cell: "54.2 [47.7 to 65.2] \u22125.0 \u25bc"."""
    unit = row["unit"]
    text = f"{wording.number(row['value'], unit)} [{wording.span(row['low'], row['high'], unit)}]"
    if row["dense"]:
        return text
    mark = wording.MARKS[wording.verdict(row)]
    said = wording.count(row["n"], None, row["of"]) if row["stopped"] else wording.alike(row)
    text = f"{text} {wording.number(row['gap'], unit, signed=True)} {mark}".rstrip()
    return f"{text} ({said})" if said else text


def crossed(rows: pd.DataFrame, title: str, cell: Callable[[Row], str] = score_cell) -> Table:
    """Variants down, tasks across, in the customary order."""
    rows = select.variant_order(rows)
    tasks = select.tasks(rows)
    labels = list(dict.fromkeys(rows["label"]))
    heads = ["variant"]
    columns = []
    for task in tasks:
        part = select.by_label(select.of_task(rows, task))
        first = select.whole_row(list(part.values()))
        metric = wording.metric_label(first["metric"])
        asked = wording.count(first["n"], first.get("units"), first["of"])
        heads.append(f"{wording.task_label(first)}: {metric}, {asked}")
        columns.append(part)
    lines = [
        (label, *(cell(part[label]) if label in part else wording.NOTHING for part in columns))
        for label in labels
    ]
    found = Table(title, tuple(heads), tuple(lines), rows, note(rows))
    if cell is not score_cell:  # what is best of a range, or of a spread, is not known
        return found
    at = {label: place for place, label in enumerate(labels)}
    best = frozenset((at[label], j) for j, part in enumerate(columns, 1) for label in _best(part))
    stars = {
        (at[label], j): made
        for j, part in enumerate(columns, 1)
        for label, row in part.items()
        if (made := _stars(row))
    }
    return replace(found, best=best, stars=stars)


def _best(rows: Mapping[str, Row]) -> list[str]:
    """The variants of a column with the best score, and those no farther from it than the noise; of a single
    one nothing is best."""
    ours = {
        label: row["value"] if row["higher_is_better"] else -row["value"]
        for label, row in rows.items()
        if not (row["dense"] or row["replica"] or row["stopped"]) and wording.known(row["value"])
    }
    if len(ours) < 2:
        return []
    first = max(ours.values())
    noise = next(iter(rows.values()))["noise"]
    return [
        label for label, value in ours.items() if first - value <= (noise if wording.known(noise) else 0.0)
    ]


def _stars(row: Row) -> str:
    """Marks of a difference to dense beyond the noise: p adjusted over the matrix."""
    if not wording.known(row["p_holm"]) or row["within_noise"] or row["within_orders"]:
        return ""
    return "**" if row["p_holm"] < 0.01 else "*" if row["p_holm"] < 0.05 else ""
