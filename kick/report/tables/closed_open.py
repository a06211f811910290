"""Knowledge and reading that compression lost, told apart by asking with the book closed and open."""

from __future__ import annotations

import pandas as pd

from kick.report import select, wording
from kick.report.tables.entry import Table, table


@table("closed_open", "Knowledge lost and reading lost", paper="Fig 4", place=2)
def closed_open(frame: pd.DataFrame) -> Table:
    """Shares now wrong of what dense knows with the book closed, and of what it only reads."""
    rows = frame[frame["metric"].isin(["knowledge_lost", "reading_lost"]) & (frame["replica"] == "")]
    rows = select.variant_order(select.wanted(rows, "task asked with the book closed and open"))
    heads = ("variant", "lost of dense's", "share (%)", "95 % interval", "n")
    lines = [
        (
            row["label"],
            "knowledge" if row["metric"] == "knowledge_lost" else "reading",
            wording.number(row["value"], "share"),
            wording.span(row["low"], row["high"], "share"),
            str(row["n"]),
        )
        for row in select.records(rows[~rows["dense"]])
    ]
    return Table("Knowledge lost and reading lost", heads, tuple(lines), rows)
