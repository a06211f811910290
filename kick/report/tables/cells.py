"""The usual shape of a table: variants down, tasks across, a score in each cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from kick.report import select, wording
from kick.report.tables.entry import Table

Row = Mapping[str, Any]
NOTE = (
    "Score with its 95 % interval over items, then the paired difference to dense: "
    "= matching (within 5 % of dense, shown), \u25bc worse, \u25b2 better, ? undecided at this n, "
    "~ inside the noise of a dense replica, \u2248 inside the noise of compression (another order of the "
    "calibration sequences)."
)


def score_cell(row: Row) -> str:
    """A cell: "54.2 [47.7 to 65.2] \u22125.0 \u25bc"."""
    unit = row["unit"]
    text = f"{wording.number(row['value'], unit)} [{wording.span(row['low'], row['high'], unit)}]"
    if row["dense"]:
        return text
    mark = wording.MARKS[wording.verdict(row)]
    return f"{text} {wording.number(row['gap'], unit, signed=True)} {mark}".rstrip()


def crossed(rows: pd.DataFrame, title: str, cell: Callable[[Row], str] = score_cell) -> Table:
    """Variants down, tasks across, in the customary order."""
    rows = select.variant_order(rows)
    tasks = select.tasks(rows)
    labels = list(dict.fromkeys(rows["label"]))
    heads = ["variant"]
    columns = []
    for task in tasks:
        part = select.by_label(select.of_task(rows, task))
        first = next(iter(part.values()))
        metric = wording.metric_label(first["metric"])
        heads.append(
            f"{wording.task_label(first)}: {metric}, {wording.count(first['n'], first.get('units'))}"
        )
        columns.append(part)
    lines = [
        (label, *(cell(part[label]) if label in part else wording.NOTHING for part in columns))
        for label in labels
    ]
    return Table(title, tuple(heads), tuple(lines), rows, NOTE)
