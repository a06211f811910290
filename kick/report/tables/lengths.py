"""How long answers are compared with dense's, where both are right and where either is wrong."""

from __future__ import annotations

import pandas as pd

from kick.report import select, wording
from kick.report.tables.entry import Table, table

_RATIOS = {"length_ratio_right": "both right", "length_ratio_other": "either wrong"}


@table("lengths", "Answer length beside dense's", place=6)
def lengths(frame: pd.DataFrame) -> Table:
    """The ratio of tokens with its interval per variant, task and kind of item, and the share cut."""
    rows = frame[frame["metric"].isin(list(_RATIOS)) & (frame["replica"] == "") & ~frame["dense"]]
    rows = select.variant_order(select.wanted(rows, "variant's answers with counted tokens beside dense's"))
    cut = frame[(frame["metric"] == "unfinished") & (frame["group"] == "")]
    shares = {row["key"]: row["value"] for row in select.records(cut)}
    heads = ("variant", "task", "items", "tokens, of dense's", "95 % interval", "n", "cut by the limit (%)")
    lines = [
        (
            row["label"],
            wording.task_label(row),
            _RATIOS[row["metric"]],
            f"{row['value']:.2f}",
            f"{row['low']:.2f} to {row['high']:.2f}" if row["n"] > 1 else "",
            str(row["n"]),
            wording.number(shares.get(row["key"], float("nan")), "share"),
        )
        for row in select.records(rows)
    ]
    note = "Geometric means. Answers that the limit cut have no length and are left out on both sides."
    return Table("Answer length beside dense's", heads, tuple(lines), rows, note)
