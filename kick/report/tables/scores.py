"""The headline scores of every variant."""

from __future__ import annotations

import pandas as pd

from kick.report import select
from kick.report.tables.cells import crossed
from kick.report.tables.entry import Table, table


@table("scores", "Scores of every variant on every task", place=0)
def scores(frame: pd.DataFrame) -> Table:
    """The headline metrics, replicas included."""
    rows = select.wanted(select.headlines(frame, replicas=True), "score")
    return crossed(rows, "Scores of every variant on every task")
