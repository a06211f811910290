"""How large each variant is: the files that one would ship, and an ideal packed format."""

from __future__ import annotations

import pandas as pd

from kick.report import select, wording
from kick.report.tables.entry import Table, table


@table("sizes", "Sizes", place=4)
def sizes(frame: pd.DataFrame) -> Table:
    """Shipped files and what they are, packed size, bits per weight, what structured steps removed."""
    rows = frame[(frame["replica"] == "") & (frame["shipped_as"].ne("") | frame["bytes"].notna())]
    select.wanted(rows[~rows["dense"]], "size of a variant beside dense")
    rows = select.variant_order(rows).drop_duplicates("label")
    cells = tuple(
        (
            str(row["label"]),
            wording.megabytes(row["shipped_bytes"]) or wording.NOTHING,
            row["shipped_as"] or "not stored with this result",
            wording.megabytes(row["bytes"]) or wording.NOTHING,
            wording.number(row["bits_per_weight"], "ratio"),
            wording.number(row["removed"], "share") if wording.known(row["removed"]) else "",
        )
        for row in select.records(rows)
    )
    heads = ("variant", "shipped", "as", "packed", "bits per weight", "removed of blocks (%)")
    return Table("Sizes of the variants", heads, cells, rows, f"{wording.SHIPPED} {wording.PACKED}")
