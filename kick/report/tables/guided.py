"""What guided decoding gains, per variant: the same items asked plainly and guided."""

from __future__ import annotations

import pandas as pd

from kick.report import select, wording
from kick.report.tables.entry import Table, table
from kick.stats import metrics


@table("guided", "What guided decoding gains", place=8)
def guided(frame: pd.DataFrame) -> Table:
    """Per variant, task and metric: the share plainly and guided, the gain with its paired interval and p,
    and how much of the answers the guide changed."""
    rows = frame[frame["metric"].str.startswith("gain@") & (frame["replica"] == "")]
    rows = select.variant_order(select.wanted(rows, "variant asked a task plainly and guided"))
    heads = (
        "variant", "task", "metric", "plain (%)", "guided (%)", "gain (points)", "95 % interval", "p", "n",
        "tokens replaced", "strayed (%)",
    )  # fmt: skip
    lines = [
        (
            row["label"],
            wording.task_label(row),
            metrics.describe(row["metric"].removeprefix("gain@")).label,
            wording.number(row["plain_value"], "share"),
            wording.number(row["guided_value"], "share"),
            f"{100 * row['value']:+.1f}",
            wording.NOTHING
            if pd.isna(row["low"])
            else f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}",
            wording.NOTHING if pd.isna(row["gain_p"]) else f"{row['gain_p']:.2g}",
            str(row["n"]),
            _given(row["replaced"], 1, 1),
            _given(row["strayed"], 100, 1),
        )
        for row in select.records(rows)
    ]
    note = (
        "Gains are of the same items, guided less plain, with McNemar's exact test, whose p is not adjusted "
        "for the number of lines. Tokens replaced: per answer those that were not the likeliest. Strayed: "
        "answers whose rest was decoded plainly."
    )
    return Table("What guided decoding gains", heads, tuple(lines), rows, note)


def _given(value: float, scale: int, digits: int) -> str:
    """A number, "" if it was not recorded."""
    return "" if pd.isna(value) else f"{scale * value:.{digits}f}"
