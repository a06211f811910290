"""The differences to dense, and what was tested."""

from __future__ import annotations

import pandas as pd

from kick.report import select, wording
from kick.report.tables.entry import Table, table


@table("gaps", "Differences to dense with interval, p and verdict", place=1)
def gaps(frame: pd.DataFrame) -> Table:
    """A line per variant and task: what was tested, and what came of it."""
    rows = select.headlines(frame)
    rows = select.variant_order(select.wanted(rows[~rows["dense"]], "variant beside the dense model"))
    lines = [
        (
            row["label"],
            f"{wording.task_label(row)}: {wording.metric_label(row['metric'])}",
            wording.number(row["gap"], row["unit"], signed=True),
            wording.signed_span(row["gap_low"], row["gap_high"], row["unit"]),
            wording.p_value(row["p"]),
            wording.p_value(row["p_holm"]),
            ", ".join(filter(None, (wording.verdict(row), wording.alike(row)))),
            wording.number(row["detectable"], row["unit"]),
            wording.count(row["n"], None, row["of"]).removeprefix("n = "),
        )
        for row in select.records(rows)
    ]
    heads = ("variant", "task", "gap", "95 % interval", "p", "p (Holm)", "verdict", "detectable", "n")
    note = "Detectable: the smallest true gap that this many items show in 80 % of studies at alpha 5 %."
    if (rows["stopped"] != "").any():
        note += (
            " With n of N items the verdict is that of the rule by which the cell ended: it has no p, is not "
            "among the tests that Holm's adjustment is for, and its interval holds at every look."
        )
    return Table("Differences to dense", heads, tuple(lines), rows, note)
