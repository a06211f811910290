"""The noise of compression: the range of scores over orders of the calibration sequences."""

from __future__ import annotations

import pandas as pd

from kick.report import select, wording
from kick.report.tables.cells import Row, crossed
from kick.report.tables.entry import Table, table


@table("orders", "Noise of compression", place=4)
def orders(frame: pd.DataFrame) -> Table:
    """The least and the largest score over orders, apart from the interval over items."""
    rows = select.headlines(frame)
    rows = select.wanted(
        rows[rows["orders"] > 1], "variant compressed with its calibration in several orders"
    )

    def cell(row: Row) -> str:
        return f"{wording.span(row['order_low'], row['order_high'], row['unit'])} ({row['orders']:g})"

    title = "Range over orders of the calibration sequences (number of orders)"
    found = crossed(rows, title, cell)
    note = "A range, not an interval: one more order is outside a range of n with a chance of 2 / (n + 1)."
    return Table(found.title, found.heads, found.cells, found.rows, note)
