"""Accuracy over several prompts of the same questions: mean, worst, spread, and the spread beside dense's."""

from __future__ import annotations

import pandas as pd

from kick.report import select, wording
from kick.report.tables.entry import Table, table


@table("wordings", "One question, several wordings", place=7)
def wordings(frame: pd.DataFrame) -> Table:
    """Per variant and task of several prompts: mean and worst accuracy, spread with its interval, and the
    difference of the spread to dense's."""
    rows = frame[(frame["metric"] == "prompt_spread") & (frame["replica"] == "")]
    rows = select.variant_order(select.wanted(rows, "variant on a task of several prompts"))
    means, worst = (_values(frame, name) for name in ("acc", "prompt_worst"))
    heads = (
        "variant", "task", "mean (%)", "worst prompt (%)", "spread (points)", "95 % interval",
        "beside dense's (points)", "95 % interval of that", "n",
    )  # fmt: skip
    lines = [
        (
            row["label"],
            wording.task_label(row),
            wording.number(means.get(row["key"], float("nan")), "share"),
            wording.number(worst.get(row["key"], float("nan")), "share"),
            f"{100 * row['value']:.1f}",
            f"{100 * row['low']:.1f} to {100 * row['high']:.1f}",
            "" if row["dense"] else f"{100 * row['gap']:+.1f}",
            "" if row["dense"] else f"{100 * row['gap_low']:+.1f} to {100 * row['gap_high']:+.1f}",
            str(row["n"]),
        )
        for row in select.records(rows)
    ]
    note = (
        "Spread is the standard deviation of accuracy over prompts, without the sampling noise of the items. "
        "Compression raises it if the last interval is above 0. Near chance there is little to spread."
    )
    return Table("One question, several wordings", heads, tuple(lines), rows, note)


def _values(frame: pd.DataFrame, metric: str) -> dict[str, float]:
    """The whole cells' values of a metric, by key."""
    found = frame[(frame["metric"] == metric) & (frame["group"] == "")]
    return {row["key"]: row["value"] for row in select.records(found)}
