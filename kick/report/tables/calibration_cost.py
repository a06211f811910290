"""What compressing took: sequences run forward and backward, time, memory."""

from __future__ import annotations

import pandas as pd

from kick.report import select, wording
from kick.report.tables.entry import Table, table

NOTE = (
    "Forward and backward: sequences that the steps ran through the model, counted as they ran; a block that "
    "is run alone counts as its part of the blocks. Not counted, \u2013: methods that go block by block, and "
    "results of earlier versions, which do not say CPU seconds and memory either. CPU seconds are of all "
    "threads; seconds are of the clock, and longer where the machine did other work. Memory is the "
    "process's peak up to the end of the last step, the model included."
)
HEADS = ("variant", "forward", "backward", "CPU seconds", "seconds", "peak memory")


@table("calibration_cost", "What compressing took", place=9)
def calibration_cost(frame: pd.DataFrame) -> Table:
    """Forward and backward passes, CPU seconds, seconds and peak memory of each compressed variant."""
    rows = frame[frame["step_seconds"].notna() & frame["replica"].eq("")]
    rows = select.variant_order(select.wanted(rows, "compressed variant")).drop_duplicates("label")
    cells = tuple(
        (
            str(row["label"]),
            *(_count(row[name]) for name in ("forwards", "backwards")),
            *(wording.number(row[name], "ratio") for name in ("step_cpu", "step_seconds")),
            wording.megabytes(row["step_memory"]) or wording.NOTHING,
        )
        for row in select.records(rows)
    )
    return Table("What compressing took", HEADS, cells, rows, NOTE)


def _count(value: float) -> str:
    """Passes are whole but for blocks that were run alone: "816", "32.5"."""
    if not wording.known(value):
        return wording.NOTHING
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"
