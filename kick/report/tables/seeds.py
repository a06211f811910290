"""The spread of scores over the seeds of calibration and of training."""

from __future__ import annotations

import pandas as pd

from kick.report import select, wording
from kick.report.tables.cells import Row, crossed
from kick.report.tables.entry import Table, table


@table("seeds", "Spread over seeds", place=3)
def seeds(frame: pd.DataFrame) -> Table:
    """Mean and standard deviation over seeds, apart from the interval over items."""
    rows = select.whole(select.headlines(frame))
    rows = rows[rows["seeds"] > 1]
    rows = select.wanted(rows, "recipe with several seeds of calibration or training")
    rows = rows.drop_duplicates([*select.SECTION, "task", "setting", "recipe"])
    rows = rows.assign(
        label=rows["label"].str.replace(r"(, training seed \d+)?(, seed \d+)?$", "", regex=True)
    )

    def cell(row: Row) -> str:
        mean, sd = (wording.number(row[name], row["unit"]) for name in ("seed_mean", "seed_sd"))
        return f"{mean} \u00b1 {sd} ({row['seeds']:g})"

    found = crossed(
        rows, "Mean and standard deviation over seeds of calibration or training (number of seeds)", cell
    )
    return Table(found.title, found.heads, found.cells, found.rows, "Not an interval over items.")
